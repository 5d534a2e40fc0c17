#ifdef STEPWARD_CUDA

#include "core/rollout/fused_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "core/lora.h"

namespace stepward {
namespace {

FusedLinear fuse(const std::vector<const Linear*>& parts) {
  std::vector<at::Tensor> weights, biases;
  bool biased = false;
  for (const Linear* part : parts) {
    weights.push_back(merged_weight(*part).contiguous());
    biased |= part->bias.defined();
    biases.push_back(part->bias.defined()
                         ? part->bias.detach().to(at::kFloat)
                         : at::zeros({part->weight.size(0)}, part->weight.options().dtype(at::kFloat)));
  }
  FusedLinear fused;
  fused.weight = weights.size() == 1 ? weights[0] : at::cat(weights);
  if (biased) fused.bias = at::cat(biases);
  return fused;
}

at::Tensor floats(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.detach().to(at::kFloat).contiguous() : at::Tensor();
}

}  // namespace

FusedModel fuse_model(const Model& model) {
  FusedModel fused;
  for (const LayerWeights& w : model.layers()) {
    fused.layers.push_back({floats(w.input_norm), floats(w.post_attention_norm), floats(w.q_norm), floats(w.k_norm),
                            fuse({&w.q, &w.k, &w.v}), fuse({&w.o}), fuse({&w.gate, &w.up}), fuse({&w.down})});
  }
  fused.final_norm = floats(model.final_norm());
  fused.embedding = model.embedding().detach().contiguous();
  fused.head = merged_weight(model.head_linear()).contiguous();
  return fused;
}

void product(const at::Tensor& x, const at::Tensor& weight, at::Tensor out) {
  if (x.scalar_type() == at::kFloat) {
    at::mm_out(out, x, weight.t());
  } else {
    at::mm_out(out, x, weight.t(), at::kFloat);
  }
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
