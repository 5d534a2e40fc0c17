// The maths under the kernels: accuracy of exp and log, Philox known answers, and every CPU variant giving the same
// bits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/isa.h"
#include "kernels/row_ops.h"

namespace stepward::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> normal_row(int64_t n, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& x : row) x = normal(random);
  return row;
}

TEST(ExactFloat, ExpIsWithinOneUlp) {
  double worst = 0.0;
  for (float x = -87.29f; x < 88.0f; x += 0.00037f) {
    const double exact = std::exp(static_cast<double>(x));
    const auto rounded = static_cast<float>(exact);
    const double ulp = std::nextafter(rounded, kInf) - rounded;
    worst = std::max(worst, std::abs(exp_f32(x) - exact) / ulp);
  }
  EXPECT_LE(worst, 1.0);
  EXPECT_EQ(exp_f32(0.0f), 1.0f);
  EXPECT_EQ(exp_f32(-87.4f), 0.0f);
  EXPECT_EQ(exp_f32(-kInf), 0.0f);
  EXPECT_TRUE(std::isnan(exp_f32(kNan)));
  EXPECT_TRUE(std::isnan(exp_f32(bits_as<float>(0x7FC00001u))));
}

TEST(ExactFloat, LogIsAccurateNextToOneToo) {
  for (const double x : {0x1p-33, 1e-5, 0.3, 0.7071, 1.0 - 0x1p-33, 1.0 - 1e-9, 1.0000001, 1.4142135, 2.0, 3e17}) {
    EXPECT_NEAR(log_f64(x), std::log(x), 4e-16 * std::abs(std::log(x))) << x;
  }
  EXPECT_EQ(log_f64(1.0), 0.0);
}

// Known answers of Random123's kat_vectors.
TEST(Philox, KnownAnswers) {
  struct Case {
    PhiloxBlock counter;
    uint32_t key0, key1;
    PhiloxBlock expected;
  };
  const Case cases[] = {
      {{{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       0xffffffff,
       0xffffffff,
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0xa4093822,
       0x299f31d0,
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const Case& c : cases) {
    const PhiloxBlock got = philox4x32_10(c.counter, c.key0, c.key1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.word[i], c.expected.word[i]) << i;
  }
}

TEST(Draw, NoiseAtEitherEndIsFinite) {
  for (const uint32_t noise : {0u, 1u, 0x7fffffffu, 0xfffffffeu, 0xffffffffu}) {
    Draw draw;
    draw.consider(7, 1.0f, noise);
    EXPECT_EQ(draw.id, 7);
    EXPECT_TRUE(std::isfinite(draw.score)) << noise;
    EXPECT_GT(draw.score, 0.0) << noise;
  }
}

TEST(Draw, TheLowestIdWinsATie) {
  for (const auto& [first, second] : {std::pair<int32_t, int32_t>{4, 9}, {9, 4}}) {
    Draw draw;
    draw.consider(first, 0.5f, 12345u);
    draw.consider(second, 0.5f, 12345u);
    EXPECT_EQ(draw.id, 4);
  }
}

TEST(Draw, TheBarNeverTurnsAwayAWinner) {
  std::mt19937 random(3);
  for (int i = 0; i < 200000; ++i) {
    const uint32_t noise = random() >> (random() % 32);
    Draw first;
    first.consider(0, 1.0f, random());
    const float weight = std::ldexp(1.0f + random() * 0x1p-32f, -static_cast<int>(random() % 34));
    Draw both = first;
    both.consider(1, weight, noise);
    if (both.id == 1) {
      EXPECT_GE(weight, Draw::half_noise(noise) * first.bar());
      EXPECT_GE(weight, first.least_weight());
    }
  }
}

class EveryVariant : public testing::Test {
 protected:
  const RowOps& narrow = *available_row_ops().front();
};

TEST_F(EveryVariant, GivesTheSameBits) {
  for (const RowOps* ops : available_row_ops()) {
    SCOPED_TRACE(ops->name);
    for (const int64_t n : {1, 3, 4, 7, 15, 16, 31, 33, 100, 2047, 2048, 2049, 5003}) {
      SCOPED_TRACE(n);
      std::vector<float> x = normal_row(n, 5.0f, static_cast<uint32_t>(n));
      if (n > 5) x[5] = -kInf;
      const float top = narrow.max(x.data(), n).max;
      EXPECT_EQ(ops->max(x.data(), n).max, top);
      EXPECT_FALSE(ops->max(x.data(), n).has_nan);
      EXPECT_EQ(ops->first_at_least(x.data(), n, top), narrow.first_at_least(x.data(), n, top));
      EXPECT_EQ(ops->first_at_least(x.data(), n, kInf), n);
      EXPECT_EQ(ops->sum_exp(x.data(), n, top), narrow.sum_exp(x.data(), n, top));
      const ExpSums sums = ops->exp_sums(x.data(), n, top), narrow_sums = narrow.exp_sums(x.data(), n, top);
      EXPECT_EQ(sums.plain, ops->sum_exp(x.data(), n, top));
      EXPECT_EQ(sums.weighted, narrow_sums.weighted);
      EXPECT_EQ(ops->exp_mass(x.data(), n, top), narrow.exp_mass(x.data(), n, top));

      const auto padded = static_cast<size_t>((n + kWeightPad - 1) / kWeightPad * kWeightPad);
      std::vector<float> weight(padded, 0.0f), expected(padded, 0.0f);
      uint64_t plain = 0, expected_plain = 0;
      EXPECT_EQ(ops->weigh(x.data(), n, top, 1.7f, weight.data(), top, &plain),
                narrow.weigh(x.data(), n, top, 1.7f, expected.data(), top, &expected_plain));
      EXPECT_EQ(plain, expected_plain);
      EXPECT_EQ(plain, narrow.exp_mass(x.data(), n, top));
      EXPECT_EQ(weight, expected);

      const RowMass tally = ops->tally(weight.data(), n, 0.01f);
      RowMass counted{0, 0};
      std::vector<int32_t> indices;
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_EQ(weight[i], exp_f32((x[i] - top) * 1.7f));
        if (weight[i] < 0.01f) continue;
        ++counted.count;
        counted.mass += weight_mass(weight[i]);
        indices.push_back(static_cast<int32_t>(i));
      }
      EXPECT_EQ(tally.count, counted.count);
      EXPECT_EQ(tally.mass, counted.mass);
      std::vector<int32_t> gathered(static_cast<size_t>(n));
      gathered.resize(static_cast<size_t>(ops->gather(weight.data(), n, 0.01f, gathered.data())));
      EXPECT_EQ(gathered, indices);

      for (uint32_t position = 0; position < 20; ++position) {
        const NoiseStream stream = noise_stream(9, 4, position, 1, 2);
        Draw best, one_by_one;
        ops->draw(weight.data(), n, stream, &best);
        for (int64_t i = 0; i < n; ++i) {
          const PhiloxBlock noise = stream.block(static_cast<uint32_t>(i / 4));
          one_by_one.consider(static_cast<int32_t>(i), weight[i], noise.word[i % 4]);
        }
        EXPECT_EQ(best.id, one_by_one.id);
        EXPECT_EQ(best.score, one_by_one.score);
      }

      const float cutoff = x[static_cast<size_t>(n / 2)];  // itself kept
      ops->drop_below(x.data(), n, cutoff, weight.data());
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(weight[i], x[i] >= cutoff ? expected[i] : 0.0f);
      std::vector<float> y = x;
      ops->scaled_exp(y.data(), n, top, -0.3f);
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(y[i], exp_f32(x[i] - top) * -0.3f);
    }
  }
}

TEST_F(EveryVariant, NoticesNanWhereverItIs) {
  for (const RowOps* ops : available_row_ops()) {
    for (int64_t at = 0; at < 77; ++at) {
      std::vector<float> x(77, 0.5f);
      x[static_cast<size_t>(at)] = kNan;
      EXPECT_TRUE(ops->max(x.data(), 77).has_nan) << ops->name << " " << at;
      EXPECT_EQ(ops->max(x.data(), 77).max, 0.5f);
      EXPECT_TRUE(std::isnan(ops->sum_exp(x.data(), 77, 0.5f)));
    }
  }
}

TEST_F(EveryVariant, CanBeChosenByName) {
  for (const RowOps* ops : available_row_ops()) {
    EXPECT_TRUE(use_isa(ops->name));
    EXPECT_EQ(&row_ops(), ops);
  }
  EXPECT_FALSE(use_isa("no such set"));
  EXPECT_TRUE(use_isa(""));
}

}  // namespace
}  // namespace stepward::kernels
