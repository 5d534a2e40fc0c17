// LoRA adapters (arXiv 2106.09685) on a model's linear layers: where they may stand, how they start, and merging them
// into the weights. Their files are peft.h's.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/optimizer.h"
#include "stepward/model.h"
#include "stepward/trainer.h"

namespace stepward {

// Calls use(name, linear) for every linear layer by its module name ("model.layers.0.self_attn.q_proj"), layer by
// layer, last lm_head where it is not tied to the embedding.
void each_linear(Model& model, const std::function<void(const std::string& name, Linear& linear)>& use);
void each_linear(const Model& model, const std::function<void(const std::string& name, const Linear& linear)>& use);

// Whether a target of LoraOptions means this module, as PEFT decides: its whole name or the end of it after a dot.
bool is_target(const std::string& module, const std::string& target);

// The targets with all-linear spelled out as the seven layers it means: as for PEFT, every linear layer but the head.
std::vector<std::string> expanded_targets(const std::vector<std::string>& targets);

// Rank and scale of a module's adapter: those of the first pattern that matches it, else rank and alpha. Scale is
// alpha / rank, with rslora alpha / sqrt(rank) (arXiv 2312.03732). Throws INVALID_ARGUMENT for a pattern that is no
// regular expression, and for a rank below 1.
struct AdapterShape {
  int64_t rank = 0;
  double scale = 0;
};
AdapterShape adapter_shape(const LoraOptions& options, const std::string& module);

// Adds an adapter to every target: A uniform in +-1/sqrt(in) as PEFT draws it, B zero. Throws INVALID_ARGUMENT for a
// rank, alpha or target that cannot be used; adapters added before that stay.
void add_lora(Model& model, const LoraOptions& options);
void remove_lora(Model& model);

// A and B of every adapter, named "<module>.lora_A.weight" and "<module>.lora_B.weight".
std::vector<Parameter> lora_parameters(Model& model);

// Adds scale * B A into each base weight and removes the adapters: each weight becomes its merged_weight.
void merge_lora(Model& model);

// The weight a forward pass applies: W + scale * B A where there is an adapter (arXiv 2106.09685 eq. 3), summed in
// float32 and rounded once to W's dtype.
at::Tensor merged_weight(const Linear& linear);

}  // namespace stepward
