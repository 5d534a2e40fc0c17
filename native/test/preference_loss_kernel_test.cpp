// Preference losses: values worked out by hand, gradients against finite differences, extreme margins, weights.
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
constexpr Kind kKinds[] = {Kind::sigmoid, Kind::ipo, Kind::hinge, Kind::robust, Kind::sigmoid_norm};

struct Pair {
  float policy_chosen, policy_rejected, reference_chosen, reference_rejected;
  float weight = 1.0f;
  int32_t chosen_length = 1, rejected_length = 1;
};

struct Result {
  float loss, grad_chosen, grad_rejected;
};

Result run(const Pair& p, const PreferenceLossParams& params) {
  Result r{};
  preference_loss_cpu({1, &p.policy_chosen, &p.policy_rejected, &p.reference_chosen, &p.reference_rejected, &p.weight,
                       &p.chosen_length, &p.rejected_length},
                      params, {&r.loss, &r.grad_chosen, &r.grad_rejected});
  return r;
}

// r(w) = 2, r(l) = -3: with beta 0.2 the margin is 1. Lengths 4 and 6 make the per-token difference 0.5 + 0.5 = 1.
const Pair kPair{-8.0f, -15.0f, -10.0f, -12.0f, 1.0f, 4, 6};

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

TEST(PreferenceLoss, LengthZeroCountsAsOne) {
  Pair zero = kPair, one = kPair;
  zero.chosen_length = zero.rejected_length = 0;
  one.chosen_length = one.rejected_length = 1;
  for (const Kind kind : {Kind::ipo, Kind::sigmoid_norm}) {
    EXPECT_EQ(run(zero, {kind, 0.3f, 0.0f}).loss, run(one, {kind, 0.3f, 0.0f}).loss);
  }
}

TEST(PreferenceLoss, IsLn2WhereThePolicyIsTheReference) {
  const Pair same{-123.456f, -78.9f, -123.456f, -78.9f, 1.0f, 7, 5};
  for (const PreferenceLossParams& params :
       {PreferenceLossParams{Kind::sigmoid, 0.1f, 0.0f}, PreferenceLossParams{Kind::sigmoid, 0.1f, 0.2f},
        PreferenceLossParams{Kind::robust, 0.1f, 0.2f}, PreferenceLossParams{Kind::sigmoid_norm, 0.1f, 0.0f}}) {
    EXPECT_NEAR(run(same, params).loss, 0.6931471805599453, 1e-7);
  }
}

TEST(PreferenceLoss, SwappingThePairFlipsTheMargin) {
  const Pair swapped{
      kPair.policy_rejected, kPair.policy_chosen, kPair.reference_rejected, kPair.reference_chosen, 1.0f, 6, 4};
  const PreferenceLossParams params{Kind::sigmoid, 0.2f, 0.0f};
  const Result r = run(kPair, params), s = run(swapped, params);
  EXPECT_NEAR(s.loss - r.loss, 1.0, 1e-6);  // -log s(-m) + log s(m) = m
  EXPECT_NEAR(r.grad_chosen + s.grad_chosen, -0.2, 1e-7);
}

TEST(PreferenceLoss, GradientsAreTheFiniteDifferencesOfTheLoss) {
  // Policy log-probs as multiples of 2^-10, so that the step is exact in f32 and the loss is taken in double.
  constexpr float kStep = 0x1p-10f;
  const Pair pairs[] = {{-8.0f, -15.0f, -10.0f, -12.0f, 1.0f, 4, 6},
                        {-20.5f, -11.25f, -14.0f, -12.5f, 1.0f, 3, 2},
                        {-1.0f, -1.0f, -1.5f, -0.75f, 1.0f, 9, 9}};
  for (const Kind kind : kKinds) {
    for (const float beta : {0.05f, 0.3f, 1.5f}) {
      const float smoothing = kind == Kind::sigmoid || kind == Kind::robust ? 0.15f : 0.0f;
      const PreferenceLossParams params{kind, beta, smoothing};
      for (const Pair& pair : pairs) {
        const auto loss_at = [&](float chosen_step, float rejected_step) {
          const Pair p = pair;
          const float chosen = p.policy_chosen + chosen_step, rejected = p.policy_rejected + rejected_step;
          return preference_pair_loss({1, &chosen, &rejected, &p.reference_chosen, &p.reference_rejected, &p.weight,
                                       &p.chosen_length, &p.rejected_length},
                                      params, 0)
              .loss;
        };
        const Result r = run(pair, params);
        const double chosen = (loss_at(kStep, 0) - loss_at(-kStep, 0)) / (2 * kStep);
        const double rejected = (loss_at(0, kStep) - loss_at(0, -kStep)) / (2 * kStep);
        const std::string where = "kind " + std::to_string(static_cast<int>(kind)) + " beta " + std::to_string(beta);
        EXPECT_NEAR(r.grad_chosen, chosen, 1e-6 + 1e-5 * std::abs(chosen)) << where;
        EXPECT_NEAR(r.grad_rejected, rejected, 1e-6 + 1e-5 * std::abs(rejected)) << where;
      }
    }
  }
}

TEST(PreferenceLoss, HugeMarginsNeitherOverflowNorVanish) {
  const Pair right{0.0f, -1e6f, -1e6f, 0.0f}, wrong{-1e6f, 0.0f, 0.0f, -1e6f};
  const PreferenceLossParams params{Kind::sigmoid, 1.0f, 0.0f};
  EXPECT_EQ(run(right, params).loss, 0.0f);
  EXPECT_EQ(run(right, params).grad_chosen, 0.0f);
  EXPECT_EQ(run(wrong, params).loss, 2e6f);
  EXPECT_EQ(run(wrong, params).grad_chosen, -1.0f);
  EXPECT_EQ(run(wrong, params).grad_rejected, 1.0f);
  const Pair small{0.0f, -15.0f, -15.0f, 0.0f};  // margin 30: the loss is e^-30, not 0
  EXPECT_NEAR(run(small, params).loss / std::exp(-30.0), 1.0, 1e-6);
}

TEST(PreferenceLoss, TheWeightScalesLossAndGradients) {
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.1f, 0.0f};
    Pair weighted = kPair;
    weighted.weight = 2.5f;
    const Result one = run(kPair, params), r = run(weighted, params);
    EXPECT_FLOAT_EQ(r.loss, 2.5f * one.loss);
    EXPECT_FLOAT_EQ(r.grad_chosen, 2.5f * one.grad_chosen);
    EXPECT_FLOAT_EQ(r.grad_rejected, 2.5f * one.grad_rejected);
    weighted.weight = 0.0f;
    const Result none = run(weighted, params);
    EXPECT_EQ(none.loss, 0.0f);
    EXPECT_EQ(none.grad_chosen, 0.0f);
    EXPECT_EQ(none.grad_rejected, 0.0f);
  }
}

TEST(PreferenceLoss, WhatIsNotFiniteStaysVisible) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Kind kind : kKinds) {
    const PreferenceLossParams params{kind, 0.1f, 0.0f};
    for (const Pair& bad :
         {Pair{nan, -1, -1, -1}, Pair{-1, nan, -1, -1}, Pair{-1, -1, nan, -1}, Pair{-1, -1, -1, nan}}) {
      const Result r = run(bad, params);
      EXPECT_TRUE(std::isnan(r.loss));
      EXPECT_TRUE(std::isnan(r.grad_chosen));
      EXPECT_TRUE(std::isnan(r.grad_rejected));
    }
    const float inf = std::numeric_limits<float>::infinity();
    EXPECT_EQ(run({-inf, -1, -1, -1}, params).loss, inf);
  }
}

TEST(PreferenceLoss, PairsAreIndependentAndLengthsOptional) {
  const std::vector<float> chosen{-8, -3, -5}, rejected{-15, -4, -5}, ref_chosen{-10, -2, -5},
      ref_rejected{-12, -9, -5}, weight{1, 2, 3};
  std::vector<float> loss(3), grad_chosen(3), grad_rejected(3);
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
