// What varlen_attention hands to flash attention: every sequence computed by itself from those very keys, values and
// counts gives what tree attention gives, and so do the gradients summed over a token's keys.
#include "core/train/varlen_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "core/train/attention_plan.h"
#include "core/train/ops.h"
#include "core/train/varlen_plan.h"
#include "helpers/tiny_model.h"

namespace stepward {
namespace {

using kernels::AttentionPlan;

// Attention as flash attention defines it for sequences of unequal length: the last query of a sequence sees its last
// key, the one before it all but that. q [T, heads, dim], keys and values [keys, kv_heads, dim] -> [T, heads * dim].
at::Tensor sequences_by_hand(const VarlenPlan& plan, const at::Tensor& q, const at::Tensor& keys,
                             const at::Tensor& values, int64_t window) {
  const int64_t group = q.size(1) / keys.size(1);
  std::vector<at::Tensor> rows;
  for (size_t r = 0; r + 1 < plan.queries.size(); ++r) {
    const int64_t queries = plan.queries[r + 1] - plan.queries[r], seen = plan.key_begin[r + 1] - plan.key_begin[r];
    const auto heads = [&](const at::Tensor& x, int64_t begin, int64_t count, int64_t repeats) {
      return x.narrow(0, begin, count).repeat_interleave(repeats, 1).transpose(0, 1);
    };
    const at::Tensor k = heads(keys, plan.key_begin[r], seen, group), v = heads(values, plan.key_begin[r], seen, group);
    const at::Tensor last = at::arange(queries).unsqueeze(1) + (seen - queries), key = at::arange(seen).unsqueeze(0);
    at::Tensor hidden = key > last;
    if (window > 0) hidden = hidden | (key <= last - window);
    const at::Tensor scores = heads(q, plan.queries[r], queries, 1).matmul(k.transpose(1, 2)) / std::sqrt(q.size(2));
    const float lowest = -std::numeric_limits<float>::infinity();
    rows.push_back(scores.masked_fill(hidden, lowest).softmax(-1).matmul(v).transpose(0, 1).flatten(1));
  }
  return at::cat(rows, 0);
}

double worst(const at::Tensor& got, const at::Tensor& expected) {
  return ((got - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST(VarlenAttention, ItsSequencesGiveWhatTheTreeGives) {
  for (const int64_t window : {0, 25}) {
    for (const uint32_t seed : {1u, 2u, 3u}) {
      const Forest forest = testing::mixed_forest(seed);
      const auto plan = std::make_shared<const AttentionPlan>(plan_attention(forest, pack_forest(forest)));
      const VarlenPlan varlen = plan_varlen(*plan);
      const VarlenAttention attention(*plan, at::kCPU);
      at::manual_seed(seed);
      const int64_t tokens = forest.num_tokens();
      const at::Tensor q = at::randn({tokens, 4, 16}).requires_grad_(), k = at::randn({tokens, 2, 16}).requires_grad_(),
                       v = at::randn({tokens, 2, 16}).requires_grad_(), weight = at::randn({tokens, 64});
      const at::Tensor expected = tree_attention(plan, q, k, v, window);
      (expected * weight).sum().backward();
      const std::vector<at::Tensor> wanted{q.grad().clone(), k.grad().clone(), v.grad().clone()};

      const at::Tensor own = q.detach().requires_grad_(), keys = attention.repeat(k.detach()).requires_grad_(),
                       values = attention.repeat(v.detach()).requires_grad_();
      const at::Tensor got = sequences_by_hand(varlen, own, keys, values, window);
      (got * weight).sum().backward();
      EXPECT_LT(worst(got, expected), 1e-5) << window;
      EXPECT_LT(worst(own.grad(), wanted[0]), 1e-5) << window;
      EXPECT_LT(worst(attention.sum_repeated(keys.grad()), wanted[1]), 1e-5) << window;
      EXPECT_LT(worst(attention.sum_repeated(values.grad()), wanted[2]), 1e-5) << window;
    }
  }
}

TEST(VarlenAttention, ATrunkIsOneSequenceAndEachLeafAnother) {
  // A prompt of 5, two accepted steps of 3 and 4, and a rejected sibling of each, 2 and 1.
  Forest forest;
  forest.tokens.assign(15, 1);
  forest.offsets = {0, 5, 8, 12, 13, 15};
  forest.parents = {-1, 0, 1, 1, 0};
  const VarlenPlan plan = plan_varlen(plan_attention(forest, pack_forest(forest)));
  EXPECT_EQ(plan.queries, (std::vector<int32_t>{0, 12, 13, 15}));
  EXPECT_EQ(plan.key_begin, (std::vector<int32_t>{0, 12, 12 + 9, 12 + 9 + 7}));
  EXPECT_EQ(plan.most_queries, 12);
  EXPECT_EQ(plan.most_keys, 12);
  EXPECT_FALSE(plan.is_plain());
  // Token 4 ends the prompt: all three read it. Token 6 is of the first step: its second reads it and that one's
  // sibling.
  EXPECT_EQ(std::vector<int32_t>(plan.uses.begin() + plan.use_begin[4], plan.uses.begin() + plan.use_begin[5]),
            (std::vector<int32_t>{4, 12 + 4, 21 + 4}));
  EXPECT_EQ(std::vector<int32_t>(plan.uses.begin() + plan.use_begin[6], plan.uses.begin() + plan.use_begin[7]),
            (std::vector<int32_t>{6, 12 + 6}));
}

TEST(VarlenAttention, ChainsRepeatNothing) {
  const Forest forest = testing::chain({1, 2, 3, 4});
  const AttentionPlan plan = plan_attention(forest, pack_forest(forest));
  EXPECT_TRUE(plan_varlen(plan).is_plain());
  const at::Tensor x = at::randn({4, 2, 8});
  EXPECT_TRUE(VarlenAttention(plan, at::kCPU).repeat(x).is_same(x));
}

}  // namespace
}  // namespace stepward
