#include "core/train/varlen_attention.h"

#include <optional>
#include <tuple>

#include <ATen/ops/_embedding_bag_forward_only.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <torch/csrc/autograd/custom_function.h>

#ifdef STEPWARD_CUDA
#include <cuda_runtime_api.h>
#endif

#include "core/tensors.h"
#include "core/train/held.h"
#include "core/train/varlen_plan.h"

namespace stepward {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct VarlenAttention::Sequences {
  bool plain;
  int64_t most_queries, most_keys;
  at::Tensor queries, key_begin;     // i32 [sequences + 1]
  at::Tensor keys, uses, use_begin;  // i64; undefined where plain
};

struct VarlenAttention::Flash : torch::autograd::Function<VarlenAttention::Flash> {
  // Positions left of a query's that it sees, and right of it. A window that hides nothing is none: it would take a slower
  // kernel.
  static std::pair<std::optional<int64_t>, std::optional<int64_t>> sides(int64_t window, const Sequences& s) {
    if (window <= 0 || window >= s.most_keys) return {std::nullopt, std::nullopt};
    return {window - 1, 0};
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const VarlenAttention& attention, int64_t window) {
    const Sequences& s = *attention.sequences_;
    const auto [left, right] = sides(window, s);
    const auto [out, lse, seed, offset, mask] = at::_flash_attention_forward(
        q, attention.repeat(k), attention.repeat(v), s.queries, s.key_begin, s.most_queries, s.most_keys,
        /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, /*scale=*/std::nullopt, left, right);
    context->save_for_backward({q, k, v, out, lse, seed, offset});
    context->saved_data["attention"] = hold(attention);
    context->saved_data["window"] = window;
    return out;
  }

  // Keys and values are repeated again rather than kept.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto attention = held<VarlenAttention>(context->saved_data["attention"]);
    const Sequences& s = *attention.sequences_;
    const auto [left, right] = sides(context->saved_data["window"].toInt(), s);
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        gradients[0].contiguous(), saved[0], attention.repeat(saved[1]), attention.repeat(saved[2]), saved[3], saved[4],
        s.queries, s.key_begin, s.most_queries, s.most_keys, /*dropout_p=*/0.0, /*is_causal=*/true, saved[5], saved[6],
        /*scale=*/std::nullopt, left, right);
    return {dq, attention.sum_repeated(dk), attention.sum_repeated(dv), at::Tensor(), at::Tensor()};
  }
};

bool has_varlen_attention(const at::Tensor& x, int64_t head_dim) {
#ifdef STEPWARD_CUDA
  if (!x.is_cuda() || (x.scalar_type() != at::kHalf && x.scalar_type() != at::kBFloat16)) return false;
  // Sizes between have had kernels that wrote past their ends, or are refused by some devices in the backward pass.
  if (head_dim % 8 != 0 || (head_dim > 128 && head_dim != 192 && head_dim != 256)) return false;
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.device().index()) == cudaSuccess && major >= 8;
#else
  (void)x;
  (void)head_dim;
  return false;
#endif
}

VarlenAttention::VarlenAttention(const kernels::AttentionPlan& plan, const at::Device& device) {
  const VarlenPlan varlen = plan_varlen(plan);
  Sequences s{varlen.is_plain(), varlen.most_queries, varlen.most_keys, index_tensor(varlen.queries, device).to(at::kInt),
              index_tensor(varlen.key_begin, device).to(at::kInt), {}, {}, {}};
  if (!s.plain) {
    s.keys = index_tensor(varlen.keys, device);
    s.uses = index_tensor(varlen.uses, device);
    s.use_begin = index_tensor(varlen.use_begin, device);
  }
  sequences_ = std::make_shared<const Sequences>(std::move(s));
}

at::Tensor VarlenAttention::operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       int64_t window) const {
  return Flash::apply(q.contiguous(), k.contiguous(), v.contiguous(), *this, window).flatten(1);
}

at::Tensor VarlenAttention::repeat(const at::Tensor& x) const {
  return sequences_->plain ? x : x.index_select(0, sequences_->keys);
}

at::Tensor VarlenAttention::sum_repeated(const at::Tensor& g) const {
  if (sequences_->plain) return g;
  // A bag of rows for every token: torch adds them up in float32, one after the other.
  const at::Tensor sums = std::get<0>(at::_embedding_bag_forward_only(
      g.flatten(1), sequences_->uses, sequences_->use_begin, /*scale_grad_by_freq=*/false, /*mode: sum*/ 0,
      /*sparse=*/false, /*per_sample_weights=*/std::nullopt, /*include_last_offset=*/true));
  std::vector<int64_t> sizes = g.sizes().vec();
  sizes[0] = sums.size(0);
  return sums.view(sizes);
}

}  // namespace stepward
