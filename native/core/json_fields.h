// Typed reading of JSON objects whose errors name the file and the key, shared by config.json, generation_config.json
// and the shard index. What the keys mean is left to the callers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace stepward {

using Json = nlohmann::ordered_json;

// The whole file. Throws FILE_NOT_FOUND or IO_ERROR.
std::string read_text_file(const std::filesystem::path& file);

// Parses an object. Throws CHECKPOINT_INVALID with the parser's line and column.
Json parse_json_object(const std::string& text, const std::filesystem::path& file);

// One JSON object and where it was read. A key that is absent or null gives the fallback; an ill-typed one throws
// CHECKPOINT_INVALID naming file, key, what was expected and what came.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const Json* find(const char* key) const;  // nullptr when absent or null
  bool contains(const char* key) const { return object_.contains(key); }
  const std::string& place() const { return place_; }

  int64_t integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> fallback = std::nullopt) const;
  double number(const char* key, std::optional<double> fallback = std::nullopt) const;
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key, const std::string& fallback) const;

  [[noreturn]] void bad(const char* key, const std::string& expected) const;
  [[noreturn]] void missing(const char* key) const;

 private:
  const Json& object_;
  std::string place_;
};

}  // namespace stepward
