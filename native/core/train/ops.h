// The differentiable steps of a decoder layer. float32 on the CPU runs through the project's own kernels, which keep less
// for the backward pass than torch's composed ops and give a token the same bits whatever is computed beside it; other
// devices and dtypes run through torch.
#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

#include "core/train/recomputed.h"
#include "kernels/tree_attention.h"

namespace stepward {

// Whether tensors like this one take the project's own kernels.
bool has_own_kernels(const at::Tensor& x);

// What linear layers read, [T, in]. Where `again` is given it is made again in the backward pass, else kept for it.
struct LinearInput {
  at::Tensor value;
  std::shared_ptr<Recomputed> again;

  LinearInput(at::Tensor value, std::shared_ptr<Recomputed> again = nullptr)  // NOLINT(google-explicit-constructor)
      : value(std::move(value)), again(std::move(again)) {}
};

// x [T, in], weight [out, in], bias [out] or undefined -> [T, out].
at::Tensor linear(const LinearInput& x, const at::Tensor& weight, const at::Tensor& bias = {});

// x [..., n], weight [n] -> x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467 eq. 4).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
// The same for linear layers alone to read.
LinearInput normed_input(const at::Tensor& x, const at::Tensor& weight, double eps);

// Half-split rotation (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), as transformers lays heads out (arXiv 2104.09864
// eq. 34). x [T, heads, head_dim]; cos, sin [T, 1, head_dim / 2].
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

// gate, up [T, n] -> gate sigmoid(gate) up (SwiGLU, arXiv 2002.05202 eq. 5), for linear layers alone to read.
LinearInput gated_input(const at::Tensor& gate, const at::Tensor& up);

// The same between its three linear layers without biases, keeping nothing but what x keeps; needs own kernels. x [T, hidden];
// gate, up [inner, hidden], down [hidden, inner] -> [T, hidden].
at::Tensor gated_mlp(const LinearInput& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down);

// Attention of a packed forest, see kernels/tree_attention.h; needs own kernels. q [T, heads, head_dim], k and v
// [T, kv_heads, head_dim] -> [T, heads * head_dim].
at::Tensor tree_attention(const std::shared_ptr<const kernels::AttentionPlan>& plan, const at::Tensor& q,
                          const at::Tensor& k, const at::Tensor& v, int64_t window);

}  // namespace stepward
