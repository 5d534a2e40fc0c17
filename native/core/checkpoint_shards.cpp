// How weights are spread over files, named as transformers names them. Writing the files is left to
// checkpoint_save.cpp.
#include "checkpoint_shards.h"

#include <cstdio>

#include "json_fields.h"

namespace stepward {

std::vector<TensorMap> make_shards(const std::vector<TensorMap::value_type>& weights, int64_t max_bytes) {
  std::vector<TensorMap> shards(1);
  int64_t used = 0;
  for (const auto& item : weights) {
    const auto bytes = static_cast<int64_t>(item.second.nbytes());
    if (used > 0 && used + bytes > max_bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().insert(item);
    used += bytes;
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

std::string index_text(const std::vector<TensorMap>& shards) {
  int64_t bytes = 0;
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const auto& [name, tensor] : shards[i]) {
      weight_map[name] = shard_name(i, shards.size());
      bytes += static_cast<int64_t>(tensor.nbytes());
    }
  }
  return Json{{"metadata", {{"total_size", bytes}}}, {"weight_map", weight_map}}.dump(2) + "\n";
}

bool is_weight_file(const std::string& name) {
  return name == single_file_name || name == shard_index_name ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

}  // namespace stepward
