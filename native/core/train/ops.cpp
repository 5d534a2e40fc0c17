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

at::Tensor linear(const LinearInput& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (has_own_kernels(x.value)) return own_linear(x.value, x.again, weight, bias);
  return bias.defined() ? at::linear(x.value, weight, bias) : at::linear(x.value, weight);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (has_own_kernels(x)) return own_rms_norm(x, weight, eps);
  return at::rms_norm(x, {weight.numel()}, weight, eps);
}

LinearInput normed_input(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::Tensor y = rms_norm(x, weight, eps);
  if (!has_own_kernels(x)) return y;
  return {std::move(y), std::make_shared<Recomputed>([x = x.detach(), weight = weight.detach(), eps] {
            return own_rms_norm(x, weight, eps);
          })};
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  if (has_own_kernels(x)) return own_rotate(x, cos, sin);
  const int64_t half = x.size(2) / 2;
  const at::Tensor x1 = x.narrow(2, 0, half), x2 = x.narrow(2, half, half);
  return at::cat({x1 * cos - x2 * sin, x2 * cos + x1 * sin}, 2);
}

LinearInput gated_input(const at::Tensor& gate, const at::Tensor& up) {
  if (!has_own_kernels(gate)) return at::silu(gate) * up;
  return {own_silu_mul(gate, up), std::make_shared<Recomputed>([gate = gate.detach(), up = up.detach()] {
            return own_silu_mul(gate, up);
          })};
}

at::Tensor gated_mlp(const LinearInput& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down) {
  return own_gated_mlp(x.value, x.again, gate, up, down);
}

}  // namespace stepward
