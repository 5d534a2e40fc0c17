// Matrix products of float32 tensors on the CPU through kernels/panels.h, for training: a row of a result depends on its
// own row of the input alone, bit for bit, whatever is beside it, and on AMD processors they are about twice as fast as
// the BLAS that torch comes with. Operands are contiguous matrices; results are overwritten, or added to where `add`.
#pragma once

#include <cstdint>

namespace stepward {

// y [rows, n] = x [rows, k] w^T, w [n, k]: a linear layer.
void product_transposed_weight(const float* x, const float* w, int64_t rows, int64_t k, int64_t n, float* y,
                               bool add = false);

// y [rows, n] = x [rows, k] w, w [k, n]: the gradient of a linear layer's input.
void product(const float* x, const float* w, int64_t rows, int64_t k, int64_t n, float* y, bool add = false);

// y [m, n] = x^T w, x [k, m], w [k, n]: the gradient of a linear layer's weight, summed over k tokens.
void product_over_rows(const float* x, const float* w, int64_t k, int64_t m, int64_t n, float* y, bool add = false);

}  // namespace stepward
