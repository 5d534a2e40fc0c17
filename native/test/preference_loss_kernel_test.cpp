// Preference losses: values worked out by hand, gradients against finite differences, mixes of both orders, extreme
// margins, weights.
#include "kernels/preference_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/preference_pair.h"

namespace stepward::kernels {
namespace {

using Kind = PreferenceLossKind;
constexpr Kind kKinds[] = {Kind::sigmoid, Kind::ipo, Kind::hinge, Kind::robust, Kind::sigmoid_norm, Kind::simpo};

bool smooths(Kind kind) {
  return kind == Kind::sigmoid || kind == Kind::robust || kind == Kind::simpo;
}

struct Pair {
  double policy_chosen, policy_rejected, reference_chosen, reference_rejected;
  float weight = 1.0f;
  int32_t chosen_length = 1, rejected_length = 1;
  float mix = 1.0f;
};

struct Result {
  double loss, grad_chosen, grad_rejected;
};

PreferencePairs pointers(const Pair& p) {
  return {1,
          &p.policy_chosen,
          &p.policy_rejected,
          &p.reference_chosen,
          &p.reference_rejected,
          &p.weight,
          &p.chosen_length,
          &p.rejected_length,
          &p.mix};
}

Result run(const Pair& p, const PreferenceLossParams& params) {
  Result r{};
  preference_loss_cpu(pointers(p), params, {&r.loss, &r.grad_chosen, &r.grad_rejected});
  return r;
}

Pair swapped(const Pair& p) {
  return {p.policy_rejected, p.policy_chosen,   p.reference_rejected, p.reference_chosen,
          p.weight,          p.rejected_length, p.chosen_length,      p.mix};
}

// r(w) = 2, r(l) = -3: with beta 0.2 the margin is 1. Lengths 4 and 6 make the per-token difference 0.5 + 0.5 = 1.
const Pair kPair{-8, -15, -10, -12, 1.0f, 4, 6};

TEST(PreferenceLoss, SigmoidByHand) {
  const Result r = run(kPair, {Kind::sigmoid, 0.2f, 0.0f});
  EXPECT_NEAR(r.loss, 0.313261688, 1e-7);           // log(1 + e^-1)
  EXPECT_NEAR(r.grad_chosen, -0.0537882843, 1e-8);  // -0.2 / (1 + e)
  EXPECT_EQ(r.grad_rejected, -r.grad_chosen);
}

TEST(PreferenceLoss, LabelSmoothingByHand) {
  const Result r = run(kPair, {Kind::sigmoid, 0.2f, 0.1f});
  EXPECT_NEAR(r.loss, 0.413261688, 1e-7);           // 0.9 * 0.313261688 + 0.1 * 1.313261688
  EXPECT_NEAR(r.grad_chosen, -0.0337882843, 1e-8);  // 0.2 * (-0.9 * 0.268941421 + 0.1 * 0.731058579)
}

TEST(PreferenceLoss, RobustByHand) {
  const Result r = run(kPair, {Kind::robust, 0.2f, 0.1f});
  EXPECT_NEAR(r.loss, 0.188261688, 1e-7);           // (0.9 * 0.313261688 - 0.1 * 1.313261688) / 0.8
  EXPECT_NEAR(r.grad_chosen, -0.0787882843, 1e-8);  // 0.2 * (-0.9 * 0.268941421 - 0.1 * 0.731058579) / 0.8
}

TEST(PreferenceLoss, HingeByHand) {
  const Result r = run(kPair, {Kind::hinge, 0.1f, 0.0f});  // margin 0.5
  EXPECT_NEAR(r.loss, 0.5, 1e-7);
  EXPECT_NEAR(r.grad_chosen, -0.1, 1e-8);
  EXPECT_NEAR(r.grad_rejected, 0.1, 1e-8);
  const Result past = run(kPair, {Kind::hinge, 0.4f, 0.0f});  // margin 2
  EXPECT_EQ(past.loss, 0.0f);
  EXPECT_EQ(past.grad_chosen, 0.0f);
}

TEST(PreferenceLoss, IpoByHandTakesLogRatiosPerToken) {
  const Result r = run(kPair, {Kind::ipo, 0.2f, 0.0f});  // (1 - 2.5)^2
  EXPECT_NEAR(r.loss, 2.25, 1e-6);
  EXPECT_NEAR(r.grad_chosen, -0.75, 1e-6);  // 2 * -1.5 / 4
  EXPECT_NEAR(r.grad_rejected, 0.5, 1e-6);  // -2 * -1.5 / 6
}

TEST(PreferenceLoss, SigmoidNormByHandTakesLogRatiosPerToken) {
  const Result r = run(kPair, {Kind::sigmoid_norm, 1.0f, 0.0f});  // margin 1
  EXPECT_NEAR(r.loss, 0.313261688, 1e-7);
  EXPECT_NEAR(r.grad_chosen, -0.0672353553, 1e-8);   // -0.268941421 / 4
  EXPECT_NEAR(r.grad_rejected, 0.0448235702, 1e-8);  // 0.268941421 / 6
}

TEST(PreferenceLoss, SimpoByHandHasAMarginAndNoReference) {
  Pair pair = kPair;  // -8 / 4 + 15 / 6 = 0.5 per token: margin 2 * 0.5 - 0.5 = 0.5
  pair.reference_chosen = pair.reference_rejected = std::numeric_limits<double>::quiet_NaN();
  const Result r = run(pair, {Kind::simpo, 2.0f, 0.0f, 0.5f});
  EXPECT_NEAR(r.loss, 0.474076984, 1e-9);           // log(1 + e^-0.5)
  EXPECT_NEAR(r.grad_chosen, -0.188770334, 1e-9);   // -2 / (1 + e^0.5) / 4
  EXPECT_NEAR(r.grad_rejected, 0.125846889, 1e-9);  // 2 / (1 + e^0.5) / 6
  const Result smoothed = run(pair, {Kind::simpo, 2.0f, 0.25f, 0.5f});
  EXPECT_NEAR(smoothed.loss, 0.599076984, 1e-9);           // 0.75 * 0.474076984 + 0.25 * 0.974076984
  EXPECT_NEAR(smoothed.grad_chosen, -0.0637703340, 1e-9);  // 2 * (-0.75 * 0.377540669 + 0.25 * 0.622459331) / 4

  PreferencePairs in = pointers(pair);
  in.reference_chosen = in.reference_rejected = nullptr;
  Result without{};
  preference_loss_cpu(in, {Kind::simpo, 2.0f, 0.0f, 0.5f},
                      {&without.loss, &without.grad_chosen, &without.grad_rejected});
  EXPECT_EQ(without.loss, r.loss);
}

TEST(PreferenceLoss, GammaIsOfSimpoAlone) {
  for (const Kind kind : kKinds) {
    const double with = run(kPair, {kind, 0.3f, 0.0f, 1.5f}).loss, without = run(kPair, {kind, 0.3f, 0.0f, 0.0f}).loss;
    if (kind == Kind::simpo) {
      EXPECT_GT(with, without + 0.1);
    } else {
      EXPECT_EQ(with, without);
    }
  }
}

// c loss(w, l) + (1 - c) loss(l, w), gradients by side.
TEST(PreferenceLoss, AMixIsBothOrdersOfThePairByTheirShares) {
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.3f, smooths(kind) ? 0.1f : 0.0f, 0.5f};
    for (const float c : {0.0f, 0.25f, 0.5f, 0.875f, 1.0f}) {
      Pair mixed = kPair;
      mixed.mix = c;
      mixed.weight = 0.5f;
      const Result r = run(mixed, params), forward = run(kPair, params), back = run(swapped(kPair), params);
      EXPECT_NEAR(r.loss, 0.5 * (c * forward.loss + (1 - c) * back.loss), 1e-15 * (1 + forward.loss + back.loss));
      EXPECT_NEAR(r.grad_chosen, 0.5 * (c * forward.grad_chosen + (1 - c) * back.grad_rejected), 1e-14);
      EXPECT_NEAR(r.grad_rejected, 0.5 * (c * forward.grad_rejected + (1 - c) * back.grad_chosen), 1e-14);
    }
  }
}

TEST(PreferenceLoss, WithoutMixesEveryMixIsOne) {
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.3f, 0.0f, 0.5f};
    PreferencePairs in = pointers(kPair);
    in.mix = nullptr;
    Result r{};
    preference_loss_cpu(in, params, {&r.loss, &r.grad_chosen, &r.grad_rejected});
    EXPECT_EQ(r.loss, run(kPair, params).loss);
    EXPECT_EQ(r.grad_chosen, run(kPair, params).grad_chosen);
    EXPECT_EQ(r.grad_rejected, run(kPair, params).grad_rejected);
  }
}

// Infinity on the side that does not count must not come in as 0 * infinity.
TEST(PreferenceLoss, ASideOfShareZeroIsLeftOut) {
  const double inf = std::numeric_limits<double>::infinity();
  const Pair right{0, -inf, 0, 0};
  EXPECT_EQ(run(right, {Kind::sigmoid, 1.0f}).loss, 0.0);
  Pair wrong = swapped(right);
  wrong.mix = 0;
  EXPECT_EQ(run(wrong, {Kind::sigmoid, 1.0f}).loss, 0.0);
  wrong.mix = 0.5;
  EXPECT_EQ(run(wrong, {Kind::sigmoid, 1.0f}).loss, inf);
}

// Sums of hundreds of nats keep what float32 would round away (its spacing at 660 is 6e-5).
TEST(PreferenceLoss, SmallDifferencesOfLongCompletionsCount) {
  const Pair pair{-660.0, -700.0, -660.0 - 1e-7, -700.0};
  const Result r = run(pair, {Kind::sigmoid, 1.0f});
  EXPECT_NEAR(r.loss - 0.6931471805599453, -0.5e-7, 1e-12);
}

TEST(PreferenceLoss, LengthZeroCountsAsOne) {
  Pair zero = kPair, one = kPair;
  zero.chosen_length = zero.rejected_length = 0;
  one.chosen_length = one.rejected_length = 1;
  for (const Kind kind : {Kind::ipo, Kind::sigmoid_norm, Kind::simpo}) {
    EXPECT_EQ(run(zero, {kind, 0.3f, 0.0f}).loss, run(one, {kind, 0.3f, 0.0f}).loss);
  }
}

TEST(PreferenceLoss, IsLn2WhereThePolicyIsTheReference) {
  const Pair same{-123.456, -78.9, -123.456, -78.9, 1.0f, 7, 5};
  for (const PreferenceLossParams& params :
       {PreferenceLossParams{Kind::sigmoid, 0.1f, 0.0f}, PreferenceLossParams{Kind::sigmoid, 0.1f, 0.2f},
        PreferenceLossParams{Kind::robust, 0.1f, 0.2f}, PreferenceLossParams{Kind::sigmoid_norm, 0.1f, 0.0f}}) {
    EXPECT_NEAR(run(same, params).loss, 0.6931471805599453, 1e-15);
  }
}

TEST(PreferenceLoss, SwappingThePairFlipsTheMargin) {
  const PreferenceLossParams params{Kind::sigmoid, 0.2f, 0.0f};
  const Result r = run(kPair, params), s = run(swapped(kPair), params);
  EXPECT_NEAR(s.loss - r.loss, 1.0, 1e-6);  // -log s(-m) + log s(m) = m
  EXPECT_NEAR(r.grad_chosen + s.grad_chosen, -0.2, 1e-7);
}

TEST(PreferenceLoss, GradientsAreTheFiniteDifferencesOfTheLoss) {
  constexpr double kStep = 0x1p-14;
  const Pair pairs[] = {{-8, -15, -10, -12, 1.0f, 4, 6},
                        {-20.5, -11.25, -14, -12.5, 1.0f, 3, 2, 0.75f},
                        {-1, -1, -1.5, -0.75, 1.0f, 9, 9, 0.125f}};
  for (const Kind kind : kKinds) {
    for (const float beta : {0.05f, 0.3f, 1.5f}) {
      const PreferenceLossParams params{kind, beta, smooths(kind) ? 0.15f : 0.0f, 0.4f};
      for (const Pair& pair : pairs) {
        const auto loss_at = [&](double chosen_step, double rejected_step) {
          Pair p = pair;
          p.policy_chosen += chosen_step;
          p.policy_rejected += rejected_step;
          return run(p, params).loss;
        };
        const Result r = run(pair, params);
        const double chosen = (loss_at(kStep, 0) - loss_at(-kStep, 0)) / (2 * kStep);
        const double rejected = (loss_at(0, kStep) - loss_at(0, -kStep)) / (2 * kStep);
        const std::string where = "kind " + std::to_string(static_cast<int>(kind)) + " beta " + std::to_string(beta);
        EXPECT_NEAR(r.grad_chosen, chosen, 1e-9 * (1 + std::abs(chosen))) << where;
        EXPECT_NEAR(r.grad_rejected, rejected, 1e-9 * (1 + std::abs(rejected))) << where;
      }
    }
  }
}

TEST(PreferenceLoss, HugeMarginsNeitherOverflowNorVanish) {
  const Pair right{0, -1e6, -1e6, 0}, wrong{-1e6, 0, 0, -1e6};
  const PreferenceLossParams params{Kind::sigmoid, 1.0f, 0.0f};
  EXPECT_EQ(run(right, params).loss, 0.0);
  EXPECT_EQ(run(right, params).grad_chosen, 0.0f);
  EXPECT_EQ(run(wrong, params).loss, 2e6f);
  EXPECT_EQ(run(wrong, params).grad_chosen, -1.0f);
  EXPECT_EQ(run(wrong, params).grad_rejected, 1.0f);
  const Pair small{0, -15, -15, 0};  // margin 30: the loss is e^-30, not 0
  EXPECT_NEAR(run(small, params).loss / std::exp(-30.0), 1.0, 1e-12);
}

TEST(PreferenceLoss, TheWeightScalesLossAndGradients) {
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.1f, 0.0f};
    Pair weighted = kPair;
    weighted.weight = 2.5f;
    const Result one = run(kPair, params), r = run(weighted, params);
    EXPECT_DOUBLE_EQ(r.loss, 2.5 * one.loss);
    EXPECT_DOUBLE_EQ(r.grad_chosen, 2.5 * one.grad_chosen);
    EXPECT_DOUBLE_EQ(r.grad_rejected, 2.5 * one.grad_rejected);
    weighted.weight = 0.0f;
    const Result none = run(weighted, params);
    EXPECT_EQ(none.loss, 0.0f);
    EXPECT_EQ(none.grad_chosen, 0.0f);
    EXPECT_EQ(none.grad_rejected, 0.0f);
  }
}

TEST(PreferenceLoss, WhatIsNotFiniteStaysVisible) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.1f, 0.0f};
    for (const Pair& bad :
         {Pair{nan, -1, -1, -1}, Pair{-1, nan, -1, -1}, Pair{-1, -1, nan, -1}, Pair{-1, -1, -1, nan}}) {
      if (kind == Kind::simpo && (std::isnan(bad.reference_chosen) || std::isnan(bad.reference_rejected))) continue;
      const Result r = run(bad, params);
      EXPECT_TRUE(std::isnan(r.loss));
      EXPECT_TRUE(std::isnan(r.grad_chosen));
      EXPECT_TRUE(std::isnan(r.grad_rejected));
    }
    const double inf = std::numeric_limits<double>::infinity();
    EXPECT_EQ(run({-inf, -1, -1, -1}, params).loss, inf);
  }
}

TEST(PreferenceLoss, PairsAreIndependentAndLengthsOptional) {
  const std::vector<double> chosen{-8, -3, -5}, rejected{-15, -4, -5}, ref_chosen{-10, -2, -5},
      ref_rejected{-12, -9, -5};
  const std::vector<float> weight{1, 2, 3};
  std::vector<double> loss(3), grad_chosen(3), grad_rejected(3);
  const PreferenceLossParams params{Kind::sigmoid, 0.2f, 0.0f};
  preference_loss_cpu(
      {3, chosen.data(), rejected.data(), ref_chosen.data(), ref_rejected.data(), weight.data(), nullptr, nullptr},
      params, {loss.data(), grad_chosen.data(), grad_rejected.data()});
  for (size_t i = 0; i < 3; ++i) {
    const Result one = run({chosen[i], rejected[i], ref_chosen[i], ref_rejected[i], weight[i]}, params);
    EXPECT_EQ(loss[i], one.loss);
    EXPECT_EQ(grad_chosen[i], one.grad_chosen);
    EXPECT_EQ(grad_rejected[i], one.grad_rejected);
  }
}

}  // namespace
}  // namespace stepward::kernels
