// LoRA adapters (arXiv 2106.09685): made on a model's linear layers, written in PEFT's files, merged into the weights.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/optimizer.h"
#include "stepward/model.h"
#include "stepward/trainer.h"

namespace stepward {

// Adds an adapter to every target layer: A uniform in +-1/sqrt(in) as PEFT draws it, B zero. The parameters to train.
// Throws INVALID_ARGUMENT for a rank, alpha or target that cannot be used.
std::vector<Parameter> add_lora(Model& model, const LoraOptions& options);
void remove_lora(Model& model);

// Adds scale * B A into each base weight and removes the adapters.
void merge_lora(Model& model);

// The weight a forward pass applies: W + scale * B A where there is an adapter (arXiv 2106.09685 eq. 3), in W's dtype.
at::Tensor merged_weight(const Linear& linear);

// adapter_model.safetensors and adapter_config.json.
void save_lora(const Model& model, const LoraOptions& options, const std::filesystem::path& directory,
               const std::string& base_model);

}  // namespace stepward
