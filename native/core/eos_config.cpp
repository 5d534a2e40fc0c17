// The token ids that end a sequence, from generation_config.json or config.json.
#include <algorithm>
#include <vector>

#include "config_parts.h"
#include "stepward/error.h"

namespace stepward {

namespace fs = std::filesystem;

namespace {

// An integer or a list of them. Ids that no token can have (some configs say -1 for none) can never end a sequence.
std::vector<int32_t> listed_ids(const JsonFields& fields, int64_t vocab_size) {
  const Json* value = fields.find("eos_token_id");
  if (value == nullptr) return {};
  std::vector<int32_t> ids;
  const auto add = [&](const Json& item) {
    if (!item.is_number_integer()) fields.bad("eos_token_id", "an integer or a list of integers");
    const int64_t id = item.get<int64_t>();
    if (id >= 0 && id < vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end()) {
      ids.push_back(static_cast<int32_t>(id));
    }
  };
  if (value->is_array()) {
    for (const Json& item : *value) add(item);
  } else {
    add(*value);
  }
  return ids;
}

}  // namespace

std::vector<int32_t> read_eos_ids(const JsonFields& config, const fs::path& directory, std::optional<int32_t> fallback,
                                  int64_t vocab_size) {
  const fs::path file = directory / "generation_config.json";
  std::error_code error;
  if (fs::exists(file, error)) {
    const Json generation = parse_json_object(read_text_file(file), file);
    const JsonFields fields(generation, file.string());
    if (fields.find("eos_token_id") != nullptr) return listed_ids(fields, vocab_size);
  }
  if (config.contains("eos_token_id")) return listed_ids(config, vocab_size);
  if (fallback && *fallback < vocab_size) return {*fallback};
  return {};
}

}  // namespace stepward
