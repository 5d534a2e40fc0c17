// A model's weights as the CUDA decoder reads them: linear layers that share an input fused into one, adapters merged
// in, norms and biases in float32. The CPU's counterpart is packed_model.h.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/model.h"

namespace stepward {

// y = x W^T + bias.
struct FusedLinear {
  at::Tensor weight;  // [out, in] in the model's dtype
  at::Tensor bias;    // [out] f32, or undefined
};

struct FusedLayer {
  at::Tensor input_norm, post_attention_norm;  // [hidden] f32
  at::Tensor q_norm, k_norm;                   // [head_dim] f32, or undefined
  FusedLinear qkv, o, gate_up, down;           // queries first, then keys, then values; gate first, then up
};

struct FusedModel {
  std::vector<FusedLayer> layers;
  at::Tensor final_norm;       // [hidden] f32
  at::Tensor embedding, head;  // [vocab, hidden]
};

// Weights that stand alone and have no adapter are the model's own tensors: no copy, and what changes in them shows.
FusedModel fuse_model(const Model& model);

// out [n, out] f32 = x [n, in] W^T for x and W of one dtype, float32 or (on CUDA) bfloat16: sums are f32 either way.
void product(const at::Tensor& x, const at::Tensor& weight, at::Tensor out);

}  // namespace stepward
