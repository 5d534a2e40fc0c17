// A model's weights as the CPU rollout engine reads them: linear layers as panels, those that share an input side by side,
// adapters merged in. float32 models have f32 panels, or bf16 ones where that is asked for; bfloat16 ones have bf16 panels.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/model.h"

namespace stepward {

// y = x W^T + bias. Columns start at multiples of 32 for each of the layers it was made from.
struct PackedLinear {
  at::Tensor panels;         // f32, or bf16 pairs
  std::vector<float> bias;   // [columns], or empty
  int64_t columns = 0;       // a multiple of 32
  int64_t inputs = 0;
  int64_t panel_stride = 0;  // elements of a panel
};

struct PackedLayer {
  std::vector<float> input_norm, post_attention_norm, q_norm, k_norm;  // the last two may be empty
  PackedLinear qkv, o, gate_up, down;
};

struct PackedModel {
  bool bf16 = false;  // the panels
  std::vector<PackedLayer> layers;
  std::vector<float> final_norm;
  PackedLinear head;
  at::Tensor embedding;  // [vocab, hidden] in the model's dtype, shared with it
};

PackedModel pack_model(const Model& model, bool bf16);

}  // namespace stepward
