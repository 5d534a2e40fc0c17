// Attention over token trees and its gradients against float64 over every query's own path.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/train/attention_plan.h"
#include "helpers/tiny_model.h"
#include "kernels/isa.h"
#include "kernels/tree_attention.h"

namespace stepward {
namespace {

struct Shape {
  int64_t heads, kv_heads, dim, window;
};

struct Operands {
  std::vector<float> q, k, v, grad;
};

Operands random_operands(int64_t tokens, const Shape& s, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Operands o{std::vector<float>(tokens * s.heads * s.dim), std::vector<float>(tokens * s.kv_heads * s.dim),
             std::vector<float>(tokens * s.kv_heads * s.dim), std::vector<float>(tokens * s.heads * s.dim)};
  for (auto* values : {&o.q, &o.k, &o.v, &o.grad}) {
    for (float& v : *values) v = normal(random);
  }
  return o;
}

struct Results {
  std::vector<float> out, lse, dq, dk, dv;
};

Results attend(const Forest& forest, const Shape& s, const Operands& o, int threads) {
  const kernels::AttentionPlan plan = plan_attention(forest, pack_forest(forest));
  const int64_t tokens = forest.num_tokens();
  Results r{std::vector<float>(o.q.size(), 7), std::vector<float>(tokens * s.heads, 7),
            std::vector<float>(o.q.size(), 7), std::vector<float>(o.k.size(), 7), std::vector<float>(o.v.size(), 7)};
  const kernels::TreeAttention job{&plan, tokens,  s.heads,    s.kv_heads, s.dim,     s.window,
                                   0.3f,  threads, o.q.data(), o.k.data(), o.v.data()};
  kernels::tree_attention_forward_cpu(job, r.out.data(), r.lse.data());
  kernels::tree_attention_backward_cpu(job, r.out.data(), r.lse.data(), o.grad.data(), r.dq.data(), r.dk.data(),
                                       r.dv.data());
  return r;
}

// Tokens that token t sees, by its path.
std::vector<int64_t> visible(const Forest& forest, const PackedForest& packed, int64_t t, int64_t window) {
  std::vector<int64_t> keys;
  for (int32_t s : path_to(forest, packed.segment[t])) {
    for (int64_t key = forest.offsets[s]; key < forest.offsets[s + 1] && key <= t; ++key) {
      if (window == 0 || packed.position[key] > packed.position[t] - window) keys.push_back(key);
    }
  }
  return keys;
}

void expect_close(const std::vector<float>& got, const std::vector<double>& want, const char* what) {
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-5 * (1 + std::abs(want[i]))) << what << i;
}

void compare(const Forest& forest, const Shape& s, const Operands& o, const Results& got) {
  const PackedForest packed = pack_forest(forest);
  const int64_t group = s.heads / s.kv_heads;
  std::vector<double> out(o.q.size()), dq(o.q.size()), dk(o.k.size()), dv(o.v.size());
  for (int64_t t = 0; t < forest.num_tokens(); ++t) {
    const std::vector<int64_t> keys = visible(forest, packed, t, s.window);
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t at = (t * s.heads + h) * s.dim;
      const auto kv = [&](int64_t key) { return (key * s.kv_heads + h / group) * s.dim; };
      std::vector<double> p;
      double total = 0, along = 0;
      for (const int64_t key : keys) {
        double score = 0;
        for (int64_t d = 0; d < s.dim; ++d) score += 0.3f * static_cast<double>(o.q[at + d]) * o.k[kv(key) + d];
        p.push_back(std::exp(score));
        total += p.back();
      }
      std::vector<double> dp(keys.size());
      for (size_t i = 0; i < keys.size(); ++i) {
        p[i] /= total;
        for (int64_t d = 0; d < s.dim; ++d) {
          out[at + d] += p[i] * o.v[kv(keys[i]) + d];
          dv[kv(keys[i]) + d] += p[i] * o.grad[at + d];
          dp[i] += static_cast<double>(o.grad[at + d]) * o.v[kv(keys[i]) + d];
        }
        along += p[i] * dp[i];
      }
      for (size_t i = 0; i < keys.size(); ++i) {
        const double ds = p[i] * (dp[i] - along) * 0.3f;
        for (int64_t d = 0; d < s.dim; ++d) {
          dq[at + d] += ds * o.k[kv(keys[i]) + d];
          dk[kv(keys[i]) + d] += ds * o.q[at + d];
        }
      }
      ASSERT_NEAR(got.lse[t * s.heads + h], std::log(total), 1e-5);
    }
  }
  expect_close(got.out, out, "out ");
  expect_close(got.dq, dq, "dq ");
  expect_close(got.dk, dk, "dk ");
  expect_close(got.dv, dv, "dv ");
}

class TreeAttentionTest : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::use_isa(kernels::isa_name(GetParam()))); }
  void TearDown() override { kernels::use_isa(""); }
};

TEST_P(TreeAttentionTest, EqualsSoftmaxOverEveryPath) {
  for (const Shape& s : {Shape{4, 2, 16, 0}, {3, 1, 40, 0}, {2, 2, 8, 25}, {9, 3, 64, 100}}) {
    const Forest forest = testing::mixed_forest(static_cast<uint32_t>(s.dim));
    const Operands o = random_operands(forest.num_tokens(), s, 5);
    compare(forest, s, o, attend(forest, s, o, 2));
    if (HasFatalFailure()) return;
  }
}

TEST_P(TreeAttentionTest, ATreeIsTheSameAloneAndBesideOthersWhateverTheThreads) {
  const Shape s{6, 2, 16, 0};
  const Forest forest = testing::mixed_forest(3);
  const Operands o = random_operands(forest.num_tokens(), s, 6);
  const Results all = attend(forest, s, o, 2), single = attend(forest, s, o, 1);
  EXPECT_EQ(std::memcmp(all.dk.data(), single.dk.data(), all.dk.size() * sizeof(float)), 0);
  EXPECT_EQ(std::memcmp(all.dq.data(), single.dq.data(), all.dq.size() * sizeof(float)), 0);

  // The last tree of the forest alone.
  const PackedForest packed = pack_forest(forest);
  const int32_t root = packed.tree_first[packed.num_trees() - 1], token = forest.offsets[root];
  Forest alone;
  alone.tokens.assign(forest.tokens.begin() + token, forest.tokens.end());
  for (size_t i = root; i < forest.offsets.size(); ++i) alone.offsets.push_back(forest.offsets[i] - token);
  for (size_t i = root; i < forest.parents.size(); ++i)
    alone.parents.push_back(forest.parents[i] < 0 ? -1 : forest.parents[i] - root);
  const auto tail = [&](const std::vector<float>& values, int64_t stride) {
    return std::vector<float>(values.begin() + token * stride, values.end());
  };
  const Operands part{tail(o.q, s.heads * s.dim), tail(o.k, s.kv_heads * s.dim), tail(o.v, s.kv_heads * s.dim),
                      tail(o.grad, s.heads * s.dim)};
  const Results got = attend(alone, s, part, 2);
  EXPECT_EQ(got.out, tail(all.out, s.heads * s.dim));
  EXPECT_EQ(got.dq, tail(all.dq, s.heads * s.dim));
  EXPECT_EQ(got.dk, tail(all.dk, s.kv_heads * s.dim));
  EXPECT_EQ(got.dv, tail(all.dv, s.kv_heads * s.dim));
}

INSTANTIATE_TEST_SUITE_P(Isas, TreeAttentionTest, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& info) { return std::string(kernels::isa_name(info.param)); });

}  // namespace
}  // namespace stepward
