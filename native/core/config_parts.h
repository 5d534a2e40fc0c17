// The parts of config.json that are read in files of their own. All throw as read_model_config does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "json_fields.h"
#include "stepward/model_config.h"

namespace stepward {

// Larger numbers in a config are damage, and their products would no longer fit 64 bits.
constexpr int64_t max_extent = int64_t{1} << 31;
constexpr int64_t max_position_limit = int64_t{1} << 40;

// rope_parameters (transformers 5) or rope_theta and rope_scaling (transformers 4).
RopeConfig read_rope_config(const JsonFields& config, int64_t max_positions);

// [num_layers] window widths in tokens, 0 for full attention.
std::vector<int64_t> read_windows(const JsonFields& config, Family family, int64_t num_layers);

// generation_config.json's, else config.json's, else the fallback where it is a token of the vocabulary.
std::vector<int32_t> read_eos_ids(const JsonFields& config, const std::filesystem::path& directory,
                                  std::optional<int32_t> fallback, int64_t vocab_size);

}  // namespace stepward
