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

// In one step or by its three layers: the same bits, the same gradients, whichever weights are trained.
TEST(GatedMlp, IsItsThreeLayers) {
  at::AutoGradMode with_grad(true);
  for (int trained = 0; trained < 16; ++trained) {
    const auto leaf = [&](const at::Tensor& values, int bit) {
      return values.clone().requires_grad_((trained >> bit & 1) != 0);
    };
    const int64_t tokens = trained % 3 == 0 ? 37 : 1300;  // more than the backward pass takes at a time
    const at::Tensor values[] = {at::randn({tokens, 20}), at::randn({70, 20}), at::randn({70, 20}),
                                 at::randn({20, 70})};
    const at::Tensor norm = at::rand({20}) + 0.5, dy = at::randn({tokens, 20});
    at::Tensor one[4], three[4];
    for (int i = 0; i < 4; ++i) {
      one[i] = leaf(values[i], i);
      three[i] = leaf(values[i], i);
    }
    const LinearInput x = normed_input(three[0], norm, 1e-5);
    const at::Tensor expected = linear(gated_input(linear(x, three[1]), linear(x, three[2])), three[3]);
    const at::Tensor y = gated_mlp(normed_input(one[0], norm, 1e-5), one[1], one[2], one[3]);
    EXPECT_TRUE(y.equal(expected));
    if (trained == 0) continue;
    y.backward(dy);
    expected.backward(dy);
    for (int i = 0; i < 4; ++i) {
      ASSERT_EQ(one[i].grad().defined(), three[i].grad().defined());
      if (!one[i].grad().defined()) continue;
      EXPECT_LE((one[i].grad() - three[i].grad()).norm().item<float>(), 1e-6f * three[i].grad().norm().item<float>());
    }
  }
}

// The norm's input goes with the backward pass, and gate and up never stay.
TEST(GatedMlp, KeepsNothingOfItsOwn) {
  at::AutoGradMode with_grad(true);
  const at::Tensor gate = at::randn({70, 20}).requires_grad_(), up = at::randn({70, 20}).requires_grad_();
  const at::Tensor down = at::randn({20, 70}).requires_grad_(), norm = at::ones({20});
  at::Tensor y, normed;
  {
    const LinearInput x = normed_input(at::randn({37, 20}), norm, 1e-5);
    normed = x.value;
    y = gated_mlp(x, gate, up, down);
  }
  EXPECT_EQ(normed.storage().use_count(), 1u);
  y.sum().backward();
  EXPECT_TRUE(down.grad().defined());
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
