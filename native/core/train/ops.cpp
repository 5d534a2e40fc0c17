#include "core/train/ops.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>

#include "core/train/own_ops.h"

namespace stepward {

bool has_own_kernels(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (has_own_kernels(x)) return own_linear(x, weight, bias);
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (has_own_kernels(x)) return own_rms_norm(x, weight, eps);
  return at::rms_norm(x, {weight.numel()}, weight, eps);
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  if (has_own_kernels(x)) return own_rotate(x, cos, sin);
  const int64_t half = x.size(2) / 2;
  const at::Tensor x1 = x.narrow(2, 0, half), x2 = x.narrow(2, half, half);
  return at::cat({x1 * cos - x2 * sin, x2 * cos + x1 * sin}, 2);
}

at::Tensor silu_mul(const at::Tensor& gate, const at::Tensor& up) {
  if (has_own_kernels(gate)) return own_silu_mul(gate, up);
  return at::silu(gate) * up;
}

}  // namespace stepward
