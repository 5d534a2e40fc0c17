// Tensors that the backward pass makes again: how often, and how long they and what they are made from stay.
#include <memory>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/train/ops.h"
#include "core/train/recomputed.h"

namespace stepward {
namespace {

TEST(Recomputed, IsMadeOnceForAllThatExpectItAndThenLetGo) {
  at::Tensor source = at::ones({4});
  int made = 0;
  Recomputed again([source, &made] {
    ++made;
    return source * 2;
  });
  again.expect();
  again.expect();
  const at::Tensor first = again.take();
  EXPECT_EQ(source.use_count(), 2);
  const at::Tensor second = again.take();
  EXPECT_TRUE(second.is_same(first));
  EXPECT_EQ(made, 1);
  EXPECT_EQ(first.use_count(), 2);   // here and in `second`
  EXPECT_EQ(source.use_count(), 1);  // only here
}

// gate and up go as soon as the weight's gradient is made, while the graph still stands.
TEST(Recomputed, WhatAGateIsMadeFromGoesDuringTheBackwardPass) {
  at::AutoGradMode with_grad(true);
  const at::Tensor weight = at::randn({3, 5}).requires_grad_();
  at::Tensor gate = at::randn({7, 5}), up = at::randn({7, 5});
  const at::Tensor y = linear(gated_input(gate, up), weight);
  const at::Tensor expected = (at::silu(gate) * up).t().matmul(at::ones({7, 3})).t();
  EXPECT_GT(gate.storage().use_count(), 1u);
  y.sum().backward();
  EXPECT_EQ(gate.storage().use_count(), 1u);
  EXPECT_LE((weight.grad() - expected).norm().item<float>(), 1e-5f * expected.norm().item<float>());
}

TEST(Recomputed, NothingIsKeptForAFrozenWeight) {
  at::AutoGradMode with_grad(true);
  const at::Tensor weight = at::randn({3, 5});
  at::Tensor x = at::randn({7, 5}).requires_grad_();
  const at::Tensor doubled = x * 2;
  const at::Tensor y = linear(doubled, weight);
  EXPECT_EQ(doubled.storage().use_count(), 1u);
  y.sum().backward();
  EXPECT_LE((x.grad() - 2 * at::ones({7, 3}).matmul(weight)).abs().max().item<float>(), 1e-5f);
}

}  // namespace
}  // namespace stepward
