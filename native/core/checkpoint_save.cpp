// Weights and config to a folder that transformers and vLLM load. Every file is complete under a temporary name before
// the first takes its real one; config.json takes its name last, so a new folder with one is whole.
#include <algorithm>
#include <set>

#include <ATen/core/Tensor.h>

#include "checkpoint_shards.h"
#include "json_fields.h"
#include "safetensors_write.h"
#include "stepward/checkpoint.h"
#include "stepward/error.h"

namespace stepward {

namespace {

namespace fs = std::filesystem;

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::ScalarType::Float:
      return "float32";
    case at::ScalarType::BFloat16:
      return "bfloat16";
    case at::ScalarType::Half:
      return "float16";
    default:
      fail(ErrorCode::INVALID_ARGUMENT, "weights are saved as float32, bfloat16 or float16, got ",
           c10::toString(dtype));
  }
}

// Model order, each checked against the config.
std::vector<TensorMap::value_type> ordered_weights(const ModelConfig& config, const TensorMap& weights) {
  std::vector<TensorMap::value_type> ordered;
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const auto found = weights.find(expected.name);
    if (found == weights.end() || found->second.sizes() != at::IntArrayRef(expected.shape)) {
      fail(ErrorCode::INVALID_ARGUMENT, "cannot save: tensor ", expected.name, " must have shape ",
           at::IntArrayRef(expected.shape), found == weights.end() ? " but is missing" : " but has another");
    }
    if (found->second.scalar_type() != weights.begin()->second.scalar_type()) {
      fail(ErrorCode::INVALID_ARGUMENT, "cannot save: tensor ", expected.name, " has dtype ",
           c10::toString(found->second.scalar_type()), ", others have ",
           c10::toString(weights.begin()->second.scalar_type()));
    }
    ordered.push_back(*found);
  }
  const size_t extra = config.tie_word_embeddings && weights.contains("lm_head.weight") ? 1 : 0;
  if (weights.size() != ordered.size() + extra) {
    fail(ErrorCode::INVALID_ARGUMENT, "cannot save: expected ", ordered.size(), " tensors, got ", weights.size());
  }
  return ordered;
}

// config.json as it was read, with its dtype key telling what is written. torch_dtype is the spelling that both
// transformers 4 and 5 read.
std::string config_text(const ModelConfig& config, const std::string& dtype) {
  Json json = parse_json_object(config.json, "config.json");
  if (json.contains("dtype")) json["dtype"] = dtype;
  if (json.contains("torch_dtype") || !json.contains("dtype")) json["torch_dtype"] = dtype;
  return json.dump(2) + "\n";
}

// Tokenizer, chat template, generation settings and the like: what travels with a model besides config and weights.
bool is_companion(const fs::directory_entry& entry) {
  static const std::set<std::string> extensions{".json", ".jinja", ".model", ".txt"};
  static const std::set<std::string> excluded{"config.json", "adapter_config.json", "trainer_state.json"};
  const std::string name = entry.path().filename().string();
  return entry.is_regular_file() && extensions.contains(entry.path().extension().string()) &&
         !excluded.contains(name) && !name.ends_with(".index.json") && name.front() != '.';
}

// Folders that this call made are removed again unless it succeeds.
class NewDirectory {
 public:
  explicit NewDirectory(const fs::path& directory) {
    fs::path first = directory;
    std::error_code error;
    while (!fs::exists(first, error)) {
      made_ = first;
      if (!first.has_parent_path() || first.parent_path() == first) break;
      first = first.parent_path();
    }
    fs::create_directories(directory, error);
    if (error) fail(ErrorCode::IO_ERROR, directory.string(), " could not be created: ", error.message());
  }
  ~NewDirectory() {
    std::error_code error;
    if (!made_.empty()) fs::remove_all(made_, error);
  }
  NewDirectory(const NewDirectory&) = delete;
  void keep() { made_.clear(); }

 private:
  fs::path made_;
};

// Files of `source` that go into `target` as they are, in name order.
std::vector<fs::path> find_companions(const fs::path& source, const fs::path& target) {
  std::vector<fs::path> companions;
  if (source.empty()) return companions;
  if (!fs::is_directory(source)) {
    fail(ErrorCode::FILE_NOT_FOUND, "model folder ", source.string(), " does not exist or is not a folder");
  }
  if (fs::equivalent(source, target)) return companions;
  for (const fs::directory_entry& entry : fs::directory_iterator(source)) {
    if (is_companion(entry)) companions.push_back(entry.path());
  }
  std::sort(companions.begin(), companions.end());
  return companions;
}

void save(const fs::path& directory, const fs::path& source, const ModelConfig& config, const TensorMap& weights,
          int64_t max_shard_bytes) {
  if (max_shard_bytes < 1)
    fail(ErrorCode::INVALID_ARGUMENT, "max_shard_bytes must be at least 1, got ", max_shard_bytes);
  const std::vector<TensorMap::value_type> ordered = ordered_weights(config, weights);
  const std::vector<TensorMap> shards = make_shards(ordered, max_shard_bytes);
  const std::string new_config = config_text(config, dtype_name(ordered.front().second.scalar_type()));

  // Without a trailing slash or dots, so that parents are found by path arithmetic alone.
  const fs::path target = (directory.has_filename() ? directory : directory.parent_path()).lexically_normal();
  NewDirectory folder(target);
  std::vector<PendingFile> files;
  const auto add_text = [&](const std::string& name, const std::string& text) {
    PendingFile& file = files.emplace_back(target / name);
    file.write(text);
    file.finish();
  };
  std::set<std::string> weight_files;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? single_file_name : shard_name(i, shards.size());
    write_safetensors_into(files.emplace_back(target / name), shards[i], {{"format", "pt"}});
    weight_files.insert(name);
  }
  if (shards.size() > 1) {
    add_text(shard_index_name, index_text(shards));
    weight_files.insert(shard_index_name);
  }
  for (const fs::path& file : find_companions(source, target)) {
    add_text(file.filename().string(), read_text_file(file));
  }
  add_text("config.json", new_config);

  for (PendingFile& file : files) file.publish();
  folder.keep();
  // Weights of an earlier save under other names (an old model.safetensors would even win over new shards), and what a
  // killed one left.
  for (const fs::directory_entry& entry : fs::directory_iterator(target)) {
    const std::string name = entry.path().filename().string();
    const bool stale_weights = is_weight_file(name) && !weight_files.contains(name);
    if (stale_weights || PendingFile::is_temporary(name)) fs::remove(entry.path());
  }
}

}  // namespace

void save_checkpoint(const fs::path& directory, const fs::path& source, const ModelConfig& config,
                     const TensorMap& weights, int64_t max_shard_bytes) {
  try {
    save(directory, source, config, weights, max_shard_bytes);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::IO_ERROR, "saving to ", directory.string(), ": ", error.what());
  }
}

}  // namespace stepward
