// Hugging Face checkpoint folders in and out: safetensors, single file or sharded. Pickle files are never read.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/model_config.h"

namespace stepward {

using TensorMap = std::map<std::string, at::Tensor>;

struct ExpectedTensor {
  std::string name;  // Hugging Face name: "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
};

// Every tensor a checkpoint of this config holds, in model order. lm_head.weight is absent when tied.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

// Memory-maps one .safetensors file; the header is bounds-checked (length, offsets without holes or overlap, shapes
// against byte counts, duplicate keys). The tensors are views of the mapping and keep it alive. Throws
// CHECKPOINT_INVALID naming file, tensor and byte counts, or FILE_NOT_FOUND.
TensorMap read_safetensors(const std::filesystem::path& file);

// The texts of a safetensors file's __metadata__, empty where it has none. Throws as read_safetensors does.
std::map<std::string, std::string> read_safetensors_metadata(const std::filesystem::path& file);

// Writes to a temporary name beside `file`, then renames. Tensors are written contiguous, little-endian, the widest
// dtype first (so that every one is aligned), then by name.
void write_safetensors(const std::filesystem::path& file, const TensorMap& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// Loads and checks every expected tensor (missing, unexpected shape, shard missing from the index: CHECKPOINT_INVALID;
// only pytorch_model.bin or *.pt there: CHECKPOINT_INVALID saying pickle is never read). Owned copies of the asked
// dtype. A tensor the config has no place for is refused, too, but for rotary buffers of old files and, in a tied
// checkpoint, an lm_head.weight that equals the embedding.
TensorMap load_weights(const std::filesystem::path& directory, const ModelConfig& config, at::ScalarType dtype);

// Random weights as transformers initialises them: linear and embedding N(0, initializer_range), biases 0, norms 1.
// Each tensor is drawn from its own generator seeded by (seed, name), so order does not matter.
TensorMap init_weights(const ModelConfig& config, uint64_t seed, at::ScalarType dtype);

// Writes a folder that transformers loads: config.json as read with its dtype key set to what is written (dtype and
// torch_dtype: whichever was there), model.safetensors (shards with an index above max_shard_bytes), and copies of the
// source folder's generation_config.json, tokenizer and chat template files (any *.json, *.jinja, *.model, *.txt, but
// no weights, index or config). Everything is written under temporary names and renamed last, so a failure leaves the
// old folder whole. `source` may equal `directory` or be empty.
void save_checkpoint(const std::filesystem::path& directory, const std::filesystem::path& source,
                     const ModelConfig& config, const TensorMap& weights, int64_t max_shard_bytes = 5'000'000'000);

}  // namespace stepward
