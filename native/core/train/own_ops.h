// The steps of ops.h as autograd functions over the CPU kernels. Inputs are float32 on the CPU, in any layout.
#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

#include "core/train/recomputed.h"

namespace stepward {

// `again`: x made anew, or null.
at::Tensor own_linear(const at::Tensor& x, const std::shared_ptr<Recomputed>& again, const at::Tensor& weight,
                      const at::Tensor& bias);
at::Tensor own_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
at::Tensor own_rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);
at::Tensor own_silu_mul(const at::Tensor& gate, const at::Tensor& up);
// Rows that own_gated_mlp takes at a time, at most: of fewer, packing weights for products would show.
constexpr int64_t kMlpRows = 640;
// x [T, hidden]; gate, up [inner, hidden], down [hidden, inner] -> (silu(x gate^T) * (x up^T)) down^T.
at::Tensor own_gated_mlp(const at::Tensor& x, const std::shared_ptr<Recomputed>& again, const at::Tensor& gate,
                         const at::Tensor& up, const at::Tensor& down);

// The arithmetic of own_silu_mul on contiguous tensors of one shape: h may be gate; dgate may be gate, dup up.
void silu_mul_into(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& h);
void silu_mul_gradient_into(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& dh, const at::Tensor& dgate,
                            const at::Tensor& dup);

}  // namespace stepward
