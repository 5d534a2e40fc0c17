// An optimiser's state as one safetensors file: exp_avg.<name>, exp_avg_sq.<name> and step.<name> of every parameter
// (adamw), and master.<name> of those whose weights are not float32. The metadata names the format and the options.
#pragma once

#include <filesystem>

#include "core/optimizer.h"
#include "stepward/checkpoint.h"

namespace stepward {

void write_optimizer_state(Optimizer& optimizer, const std::filesystem::path& file);

// The file's tensors, checked against this optimiser: kind and betas (which the moments' bias correction depends on),
// parameters' names, shapes and dtypes. Throws CHECKPOINT_INVALID saying which differs, FILE_NOT_FOUND.
TensorMap read_optimizer_state(Optimizer& optimizer, const std::filesystem::path& file);

// Copies tensors that read_optimizer_state returned into the optimiser, and masters on into their weights.
void set_optimizer_state(Optimizer& optimizer, const TensorMap& state);

}  // namespace stepward
