// Attention of a forest by flash attention on CUDA against tree attention on the CPU. Skipped where build or machine
// have no CUDA.
#include <gtest/gtest.h>

#ifdef STEPWARD_CUDA

#include <memory>
#include <vector>

#include <ATen/ATen.h>

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

TEST_F(CudaTwins, VarlenAttentionAndItsGradientsAgree) {
  for (const int64_t window : {0, 25}) {
    for (const uint32_t seed : {1u, 2u}) {
      const Forest forest = testing::mixed_forest(seed);
      const auto plan = std::make_shared<const kernels::AttentionPlan>(plan_attention(forest, pack_forest(forest)));
      at::manual_seed(seed);
      const int64_t tokens = forest.num_tokens();
      // Values that both sides hold exactly.
      const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(at::kBFloat16).to(at::kFloat); };
      const at::Tensor q = random({tokens, 4, 64}).requires_grad_(), k = random({tokens, 2, 64}).requires_grad_(),
                       v = random({tokens, 2, 64}).requires_grad_(), weight = random({tokens, 256});
      const at::Tensor expected = tree_attention(plan, q, k, v, window);
      (expected * weight).sum().backward();

      const auto on_device = [](const at::Tensor& x) {
        return x.detach().to(at::Device(at::kCUDA, 0), at::kBFloat16).requires_grad_();
      };
      const at::Tensor dq = on_device(q), dk = on_device(k), dv = on_device(v), dweight = on_device(weight).detach();
      ASSERT_TRUE(has_varlen_attention(dq, 64));
      const at::Tensor got = VarlenAttention(*plan, dq.device())(dq, dk, dv, window);
      (got * dweight).sum().backward();
      const auto worst = [](const at::Tensor& on_device, const at::Tensor& host) {
        return ((on_device.to(at::kCPU, at::kFloat) - host).abs().max() / host.abs().max()).item<double>();
      };
      EXPECT_LT(worst(got, expected.detach()), kTolerance) << window;
      EXPECT_LT(worst(dq.grad(), q.grad()), kTolerance) << window;
      EXPECT_LT(worst(dk.grad(), k.grad()), kTolerance) << window;
      EXPECT_LT(worst(dv.grad(), v.grad()), kTolerance) << window;
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
