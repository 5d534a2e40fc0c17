// The products of products.h on tensors: contiguous float32 matrices on the CPU. Results have their memory already; they
// are overwritten, or added to where `add`.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/train/products.h"

namespace stepward {

// y [T, n] = x w^T, x [T, k], w [n, k].
inline void times_transposed(const at::Tensor& x, const at::Tensor& w, const at::Tensor& y) {
  product_transposed_weight(x.const_data_ptr<float>(), w.const_data_ptr<float>(), x.size(0), w.size(1), w.size(0),
                            y.data_ptr<float>());
}

// y [T, n] = x w, x [T, k], w [k, n].
inline void times(const at::Tensor& x, const at::Tensor& w, const at::Tensor& y, bool add = false) {
  product(x.const_data_ptr<float>(), w.const_data_ptr<float>(), x.size(0), w.size(0), w.size(1), y.data_ptr<float>(),
          add);
}

// sum [m, n] = x^T y, x [T, m], y [T, n]: over tokens.
inline void over_tokens(const at::Tensor& x, const at::Tensor& y, const at::Tensor& sum, bool add = false) {
  product_over_rows(x.const_data_ptr<float>(), y.const_data_ptr<float>(), x.size(0), x.size(1), y.size(1),
                    sum.data_ptr<float>(), add);
}

}  // namespace stepward
