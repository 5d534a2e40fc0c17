// A checkpoint folder to owned, checked tensors. The bytes of one file are read in safetensors_read.cpp.
#include <algorithm>
#include <set>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include "checkpoint_shards.h"
#include "json_fields.h"
#include "stepward/checkpoint.h"
#include "stepward/error.h"

namespace stepward {

namespace {

namespace fs = std::filesystem;

constexpr const char* head_name = "lm_head.weight";
constexpr const char* embedding_name = "model.embed_tokens.weight";

struct StoredTensor {
  at::Tensor view;
  fs::path file;
};
using StoredTensors = std::map<std::string, StoredTensor>;

template <typename... Parts>
[[noreturn]] void bad_checkpoint(const fs::path& place, const Parts&... parts) {
  fail(ErrorCode::CHECKPOINT_INVALID, place.string(), ": ", parts...);
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

[[noreturn]] void no_weights(const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      bad_checkpoint(
          directory, "holds no ", single_file_name, " but ", entry.path().filename().string(),
          ", a pickle file. Pickle files can run code when they are opened and are never read here. Convert it with "
          "transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)");
    }
  }
  bad_checkpoint(directory, "holds no weights: expected ", single_file_name, " or ", shard_index_name);
}

StoredTensors map_file(const fs::path& file) {
  StoredTensors result;
  for (auto& [name, view] : read_safetensors(file)) result.emplace(name, StoredTensor{view, file});
  return result;
}

StoredTensors map_shards(const fs::path& index_file) {
  const Json index = parse_json_object(read_text_file(index_file), index_file);
  const Json* weight_map = JsonFields(index, index_file.string()).find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object() || weight_map->empty()) {
    bad_checkpoint(index_file, "expected an object \"weight_map\" that gives each tensor's file");
  }
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& [tensor, value] : weight_map->items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : "";
    // A plain file name: an index must not reach outside its folder.
    if (shard.empty() || shard == ".." || fs::path(shard).filename() != shard ||
        fs::path(shard).extension() != ".safetensors") {
      bad_checkpoint(index_file, "tensor ", tensor, " must be mapped to a .safetensors file of this folder, got ",
                     value.dump());
    }
    shard_of[tensor] = shard;
    shards.insert(shard);
  }
  StoredTensors result;
  for (const std::string& shard : shards) {
    const fs::path file = index_file.parent_path() / shard;
    if (!fs::exists(file)) bad_checkpoint(index_file, "shard ", shard, " is named here but does not exist");
    for (auto& [name, stored] : map_file(file)) {
      const auto listed = shard_of.find(name);
      if (listed != shard_of.end() && listed->second != shard) {
        bad_checkpoint(file, "holds tensor ", name, ", which ", shard_index_name, " says is in ", listed->second);
      }
      if (!result.emplace(name, stored).second) bad_checkpoint(file, "tensor ", name, " is also in another shard");
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (!result.contains(name)) {
      bad_checkpoint(index_file.parent_path() / shard, "tensor ", name, " is missing, though ", shard_index_name,
                     " says it is here");
    }
  }
  return result;
}

StoredTensors map_weights(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    fail(ErrorCode::FILE_NOT_FOUND, "model folder ", directory.string(), " does not exist or is not a folder");
  }
  if (fs::exists(directory / single_file_name, error)) return map_file(directory / single_file_name);
  if (fs::exists(directory / shard_index_name, error)) return map_shards(directory / shard_index_name);
  no_weights(directory);
}

at::Tensor load_tensor(const ExpectedTensor& expected, const StoredTensor& stored, at::ScalarType dtype) {
  const at::Tensor& view = stored.view;
  if (view.sizes() != at::IntArrayRef(expected.shape)) {
    bad_checkpoint(stored.file, "tensor ", expected.name, " must have shape ", shape_text(expected.shape),
                   " by config.json, got ", shape_text(view.sizes()));
  }
  if (!at::isFloatingType(view.scalar_type())) {
    bad_checkpoint(stored.file, "tensor ", expected.name, " must be F32, F16, BF16 or F64, got ",
                   c10::toString(view.scalar_type()));
  }
  at::Tensor owned = at::empty(expected.shape, dtype);
  owned.copy_(view);
  return owned;
}

// Buffers that old versions of transformers stored and that are computed from the config.
bool is_rotary_buffer(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") ||
         name.ends_with("rotary_emb.sin_cached");
}

// A tied model has one matrix. Where a file stores the head as well, it must be that same matrix: transformers unties
// the two when they differ, so silently dropping one would be another model.
void check_tied_head(const StoredTensors& stored) {
  const auto head = stored.find(head_name);
  const auto embedding = stored.find(embedding_name);
  if (head == stored.end() || embedding == stored.end()) return;
  const at::Tensor& a = head->second.view;
  const at::Tensor& b = embedding->second.view;
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes() || !at::equal(a, b)) {
    bad_checkpoint(head->second.file, head_name, " differs from ", embedding_name,
                   ", but config.json says tie_word_embeddings; set it to false to use both");
  }
}

}  // namespace

TensorMap load_weights(const fs::path& directory, const ModelConfig& config, at::ScalarType dtype) {
  StoredTensors stored = map_weights(directory);
  if (config.tie_word_embeddings) {
    check_tied_head(stored);
    if (stored.contains(embedding_name)) stored.erase(head_name);
  }
  TensorMap weights;
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const auto found = stored.find(expected.name);
    if (found == stored.end()) {
      const fs::path single = directory / single_file_name, index = directory / shard_index_name;
      bad_checkpoint(fs::exists(single) ? single : index, "tensor ", expected.name, " of shape ",
                     shape_text(expected.shape), ", which config.json asks for, is missing");
    }
    weights.emplace(expected.name, load_tensor(expected, found->second, dtype));
    stored.erase(found);
  }
  for (const auto& [name, tensor] : stored) {
    if (!is_rotary_buffer(name)) {
      bad_checkpoint(tensor.file, "tensor ", name, " has no place in the model that config.json describes");
    }
  }
  return weights;
}

}  // namespace stepward
