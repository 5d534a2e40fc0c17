// LoRA adapters as PEFT's files: adapter_config.json and adapter_model.safetensors, read and written.
#pragma once

#include <filesystem>
#include <string>

#include "stepward/checkpoint.h"
#include "stepward/model.h"
#include "stepward/trainer.h"

namespace stepward {

// Puts the folder's adapter onto the model, which has none. Returns its configuration, with the targets that a list or
// all-linear names, or where PEFT chose modules by a regular expression or by layer, each module's own name.
// Read are LoRA adapters of the linear layers, with rank_pattern, alpha_pattern and use_rslora. Throws
// UNSUPPORTED_MODEL naming what is not (DoRA, biases, modules_to_save, embeddings ...), CHECKPOINT_INVALID where the
// files are damaged or made for another base (shapes, layers, or the base's fingerprint that save_lora wrote), and
// FILE_NOT_FOUND. `allow_other_base` leaves out the fingerprint, not the shapes. A failure leaves the model without
// one.
LoraOptions load_lora(Model& model, const std::filesystem::path& folder, bool allow_other_base);

// Values of the folder's adapter tensors by parameter name (lora_parameters), on the CPU in the files' dtype.
TensorMap read_adapter_values(const std::filesystem::path& folder);

// Writes the model's adapters; each file is complete under a temporary name first, the configuration takes its name
// last. `fingerprint` is the base's and goes into the tensors' metadata as "stepward_base".
void save_lora(const Model& model, const LoraOptions& options, const std::filesystem::path& folder,
               const std::string& base_model, const std::string& fingerprint);

// Hash of the base weights as bfloat16: the same whether a checkpoint was loaded as float32 or as bfloat16.
std::string base_fingerprint(const Model& model);

}  // namespace stepward
