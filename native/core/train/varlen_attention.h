// Attention of a packed forest on a GPU, by one call of flash attention over sequences of unequal length: no mask, no
// padding, and KV heads are read as they are. Only keys and values of a path are repeated, while a layer runs.
#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

#include "kernels/tree_attention.h"

namespace stepward {

// Whether there is such a call for heads of x's dtype and device: float16 or bfloat16 on CUDA from compute capability 8.0
// on, head_dim a multiple of 8 up to 128, 192 or 256.
bool has_varlen_attention(const at::Tensor& x, int64_t head_dim);

// A forward pass's sequences on its device, shared by its layers.
class VarlenAttention {
 public:
  VarlenAttention(const kernels::AttentionPlan& plan, const at::Device& device);

  // q [T, heads, head_dim], k and v [T, kv_heads, head_dim] -> [T, heads * head_dim]. Differentiable. `window` > 0: only the
  // last `window` positions are visible, the query's own included.
  at::Tensor operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) const;

  // x [T, ...] -> [keys, ...], the keys of all sequences; and the sums of g [keys, ...] over a token's keys, in float32 and
  // in a fixed order, -> [T, ...] of g's dtype.
  at::Tensor repeat(const at::Tensor& x) const;
  at::Tensor sum_repeated(const at::Tensor& g) const;

 private:
  struct Sequences;
  struct Flash;

  std::shared_ptr<const Sequences> sequences_;
};

}  // namespace stepward
