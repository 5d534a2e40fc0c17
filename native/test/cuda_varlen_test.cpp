// Attention of a forest by flash attention on CUDA against tree attention on the CPU, and training over either. Skipped
// where build or machine have no CUDA.
#include <gtest/gtest.h>

#ifdef STEPWARD_CUDA

#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "core/freeze.h"
#include "core/train/attention_plan.h"
#include "core/train/ops.h"
#include "core/train/varlen_attention.h"
#include "helpers/on_device.h"
#include "helpers/tiny_model.h"

namespace stepward {
namespace {

// bf16 keeps 8 bits: scores, weights and results are each off by up to 2^-9.
constexpr double kTolerance = 0.02;

using kernels::CudaTwins;

double worst(const at::Tensor& got, const at::Tensor& expected) {
  return ((got.detach().to(at::kCPU, at::kFloat) - expected.detach()).abs().max() / expected.detach().abs().max())
      .item<double>();
}

// Trees of one token each: no query has another key than its own.
Forest single_tokens(int count) {
  Forest forest;
  forest.offsets = {0};
  for (int i = 0; i < count; ++i) {
    forest.tokens.push_back(i);
    forest.offsets.push_back(i + 1);
    forest.parents.push_back(-1);
  }
  return forest;
}

void expect_twins(const Forest& forest, int64_t heads, int64_t kv_heads, int64_t dim, int64_t window) {
  const auto plan = std::make_shared<const kernels::AttentionPlan>(plan_attention(forest, pack_forest(forest)));
  at::manual_seed(static_cast<uint64_t>(heads + dim + window));
  const int64_t tokens = forest.num_tokens();
  // Values that both sides hold exactly.
  const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(at::kBFloat16).to(at::kFloat); };
  const at::Tensor q = random({tokens, heads, dim}).requires_grad_(),
                   k = random({tokens, kv_heads, dim}).requires_grad_(),
                   v = random({tokens, kv_heads, dim}).requires_grad_(), weight = random({tokens, heads * dim});
  const at::Tensor expected = tree_attention(plan, q, k, v, window);
  (expected * weight).sum().backward();

  const auto on_device = [](const at::Tensor& x) {
    return x.detach().to(at::Device(at::kCUDA, 0), at::kBFloat16).requires_grad_();
  };
  const at::Tensor dq = on_device(q), dk = on_device(k), dv = on_device(v);
  ASSERT_TRUE(has_varlen_attention(dq, dim));
  const at::Tensor got = VarlenAttention(*plan, dq.device())(dq, dk, dv, window);
  (got * on_device(weight).detach()).sum().backward();
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << heads << "/" << kv_heads << " heads of " << dim
                                    << ", window " << window);
  EXPECT_LT(worst(got, expected), kTolerance);
  EXPECT_LT(worst(dv.grad(), v.grad()), kTolerance);
  if (plan->num_blocks() == tokens) return;  // single tokens: nothing depends on scores
  EXPECT_LT(worst(dq.grad(), q.grad()), kTolerance);
  EXPECT_LT(worst(dk.grad(), k.grad()), kTolerance);
}

TEST_F(CudaTwins, VarlenAttentionAndItsGradientsAgree) {
  for (const int64_t window : {0, 25}) {
    for (const uint32_t seed : {1u, 2u}) expect_twins(testing::mixed_forest(seed), 4, 2, 64, window);
  }
  expect_twins(testing::mixed_forest(3), 4, 4, 80, 0);
  expect_twins(testing::mixed_forest(4), 6, 2, 8, 0);
  expect_twins(testing::chain(std::vector<int32_t>(200, 1)), 4, 2, 64, 0);
  expect_twins(single_tokens(40), 4, 2, 64, 0);
}

TEST_F(CudaTwins, TrainingAForestAgrees) {
  const Forest forest = testing::mixed_forest(5);
  std::vector<uint8_t> scored(forest.num_segments());
  for (size_t s = 0; s < scored.size(); ++s) scored[s] = s % 3 != 0;
  struct Computed {
    at::Tensor logprobs;
    std::vector<at::Tensor> gradients;
  };
  const auto compute = [&](const std::string& device, const std::string& dtype, bool checkpoints, const char* extra) {
    const auto model = testing::tiny_model(extra[0] == 0 ? "llama" : "mistral",
                                           std::string("\"max_position_embeddings\": 1024") + extra, 1, device, dtype);
    model->set_checkpoint_layers(checkpoints);
    std::vector<Parameter> parameters = trainable_weights(*model, {});
    for (Parameter& parameter : parameters) parameter.tensor.set_requires_grad(true);
    const at::Tensor values = forest_logprobs(*model, forest, scored).values;
    values.sum().backward();
    Computed computed{values.detach().to(at::kCPU, at::kFloat), {}};
    for (const Parameter& parameter : parameters)
      computed.gradients.push_back(testing::gradient_of(parameter.tensor).to(at::kCPU, at::kFloat));
    return computed;
  };
  for (const char* extra : {"", ", \"sliding_window\": 30"}) {
    const Computed expected = compute("cpu", "float32", false, extra);
    for (const auto& [dtype, tolerance] : {std::pair{"float32", 1e-3}, {"bfloat16", 0.1}}) {
      for (const bool checkpoints : {false, true}) {
        SCOPED_TRACE(::testing::Message() << dtype << (checkpoints ? ", checkpoints" : "") << extra);
        const Computed got = compute("cuda", dtype, checkpoints, extra);
        EXPECT_LT(worst(got.logprobs, expected.logprobs), tolerance);
        for (size_t i = 0; i < expected.gradients.size(); ++i)
          EXPECT_LT(worst(got.gradients[i], expected.gradients[i]), tolerance) << "weight " << i;
      }
    }
  }
}

}  // namespace
}  // namespace stepward

#else

TEST(CudaVarlen, NeedsACudaBuild) {
  GTEST_SKIP() << "built without CUDA";
}

#endif
