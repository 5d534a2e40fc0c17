// The weight files of a checkpoint folder: their names, and which tensor goes into which.
#pragma once

#include <string>
#include <vector>

#include "stepward/checkpoint.h"

namespace stepward {

constexpr const char* single_file_name = "model.safetensors";
constexpr const char* shard_index_name = "model.safetensors.index.json";

// Consecutive tensors fill a shard up to max_bytes; one that is larger gets a shard of its own.
std::vector<TensorMap> make_shards(const std::vector<TensorMap::value_type>& weights, int64_t max_bytes);

// "model-00001-of-00004.safetensors" for index 0 of 4.
std::string shard_name(size_t index, size_t count);

// The text of the index file.
std::string index_text(const std::vector<TensorMap>& shards);

// Whether a file of this name holds or indexes weights.
bool is_weight_file(const std::string& name);

}  // namespace stepward
