// Reads JSON fields with errors that say where. Leaves meaning, defaults and limits to the callers.
#include "json_fields.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "stepward/error.h"

namespace stepward {

namespace {

// A value as it should appear in a message: short, whatever its size.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

std::string read_text_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) fail(ErrorCode::FILE_NOT_FOUND, file.string(), " does not exist");
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (in && in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  if (in.bad() || !in.is_open()) fail(ErrorCode::IO_ERROR, file.string(), " could not be read");
  return text.str();
}

Json parse_json_object(const std::string& text, const std::filesystem::path& file) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": not valid JSON: ", error.what());
  }
  if (!json.is_object()) {
    fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": expected a JSON object, got ", json.type_name());
  }
  return json;
}

const Json* JsonFields::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::bad(const char* key, const std::string& expected) const {
  fail(ErrorCode::CHECKPOINT_INVALID, place_, ": \"", key, "\" must be ", expected, ", got ", shown(object_.at(key)));
}

void JsonFields::missing(const char* key) const {
  fail(ErrorCode::CHECKPOINT_INVALID, place_, ": required key \"", key, "\" is missing");
}

int64_t JsonFields::integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  const bool fits =
      value->is_number_unsigned() ? value->get<uint64_t>() <= uint64_t{INT64_MAX} : value->is_number_integer();
  const int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < low || number > high) {
    bad(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return number;
}

double JsonFields::number(const char* key, std::optional<double> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  if (!value->is_number() || !std::isfinite(value->get<double>())) bad(key, "a number");
  return value->get<double>();
}

bool JsonFields::boolean(const char* key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) bad(key, "true or false");
  return value->get<bool>();
}

std::string JsonFields::string(const char* key, const std::string& fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) bad(key, "a string");
  return value->get<std::string>();
}

}  // namespace stepward
