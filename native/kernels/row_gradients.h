// Gradients of the row-wise steps of decoder_rows.h on the CPU, f32, for one row of n values each. A call is
// single-threaded.
#pragma once

#include <cstdint>

namespace stepward::kernels {

struct RowGradientOps {
  // Of y = x / sqrt(mean(x^2) + eps) * weight: dx is overwritten, dweight [n] is added to and may be null. dx may be
  // dy.
  void (*rms_norm)(const float* x, int64_t n, float eps, const float* weight, const float* dy, float* dx,
                   float* dweight);
  // Of h = gate * sigmoid(gate) * up: dgate and dup are overwritten; dgate may be gate, dup may be up.
  void (*silu_mul)(const float* gate, const float* up, const float* dh, int64_t n, float* dgate, float* dup);
};

// The variant of isa().
const RowGradientOps& row_gradient_ops();

}  // namespace stepward::kernels
