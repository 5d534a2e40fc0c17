// The sampler against a sorted reference in double, its edge cases, and the distribution of its draws.
#include "kernels/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "helpers/sampler_reference.h"
#include "kernels/isa.h"
#include "kernels/kept_threshold.h"
#include "kernels/row_ops.h"

namespace stepward::kernels {
namespace {

using reference::normal_logits;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingParams with(float temperature, int32_t top_k = 0, float top_p = 1.0f, uint64_t seed = 17, float min_p = 0.0f) {
  return {temperature, top_k, top_p, min_p, seed};
}

Sample sample_one(const std::vector<float>& logits, const SamplingParams& params, SampleKey key = {},
                  const std::vector<int32_t>& barred = {}) {
  Sample out{};
  const auto vocab = static_cast<int64_t>(logits.size());
  EXPECT_EQ(sample_rows_cpu(logits.data(), 1, vocab, vocab, &key, barred.data(), static_cast<int64_t>(barred.size()),
                            params, &out),
            -1);
  return out;
}

int64_t bad_row(const std::vector<float>& logits, const SamplingParams& params, const std::vector<int32_t>& barred = {},
                uint32_t bar = 0) {
  Sample out{};
  const SampleKey key{0, 0, 0, 0, bar};
  const auto vocab = static_cast<int64_t>(logits.size());
  return sample_rows_cpu(logits.data(), 1, vocab, vocab, &key, barred.data(), static_cast<int64_t>(barred.size()),
                         params, &out);
}

void expect_reference(const std::vector<float>& logits, const SamplingParams& params, const SampleKey& key,
                      const std::vector<int32_t>& barred = {}) {
  const Sample got = sample_one(logits, params, key, barred);
  const reference::Result expected = reference::sample(logits, key, barred, params);
  const auto near = [](double x) { return 2e-6 + 2e-7 * std::abs(x); };
  EXPECT_EQ(got.id, expected.id);
  EXPECT_NEAR(got.logprob, expected.logprob, near(expected.logprob));
  EXPECT_NEAR(got.sampling_logprob, expected.sampling_logprob, near(expected.sampling_logprob));
  EXPECT_NEAR(got.log_kept, expected.log_kept, near(expected.log_kept));
}

TEST(Greedy, TakesTheLowestIdOfTheMaximum) {
  std::vector<float> logits = normal_logits(1003, 1.0, 1);
  for (const size_t at : {1002u, 700u, 33u, 32u, 3u, 0u}) {
    logits[at] = 9.0f;
    EXPECT_EQ(sample_one(logits, with(0.0f)).id, static_cast<int32_t>(at));
  }
  EXPECT_EQ(sample_one({-0.0f, 0.0f, 0.0f}, with(0.0f)).id, 0);
  EXPECT_EQ(sample_one({-kInf, -kInf, -5.0f}, with(0.0f)).id, 2);
}

TEST(Greedy, ReportsTheRawLogProbAndNothingTruncated) {
  const std::vector<float> logits = normal_logits(500, 2.0, 2);
  const Sample got = sample_one(logits, with(0.0f, 3, 0.5f));
  EXPECT_NEAR(got.logprob, reference::sample(logits, {}, {}, with(0.0f)).logprob, 1e-6);
  EXPECT_EQ(got.sampling_logprob, 0.0f);
  EXPECT_EQ(got.log_kept, 0.0f);
}

TEST(Greedy, PassesOverBarredIdsWhichStillCountInTheLogProb) {
  const std::vector<float> logits{1.0f, 5.0f, 4.0f, 4.0f};
  const std::vector<int32_t> barred{1};
  EXPECT_EQ(sample_one(logits, with(0.0f), {0, 0, 0, 0, 0}, barred).id, 1);
  const Sample got = sample_one(logits, with(0.0f), {0, 0, 0, 0, 1}, barred);
  EXPECT_EQ(got.id, 2);
  EXPECT_NEAR(got.logprob, 4.0 - std::log(std::exp(1.0) + std::exp(5.0) + 2 * std::exp(4.0)), 1e-6);
}

TEST(BadRow, IsReportedWhereverTheBadLogitIs) {
  for (const float temperature : {0.0f, 0.7f}) {
    for (const size_t at : {0u, 5u, 31u, 64u, 98u}) {
      for (const float bad : {kNan, kInf}) {
        std::vector<float> logits(99, 0.25f);
        logits[at] = bad;
        EXPECT_EQ(bad_row(logits, with(temperature)), 0);
        EXPECT_EQ(bad_row(logits, with(temperature), {static_cast<int32_t>(at)}, 1), 0);
      }
    }
    EXPECT_EQ(bad_row(std::vector<float>(50, -kInf), with(temperature)), 0);
    EXPECT_EQ(bad_row({1.0f, -kInf}, with(temperature), {0}, 1), 0);
    EXPECT_EQ(bad_row({1.0f, 2.0f}, with(temperature), {1, 0, 1}, 1), 0);
    EXPECT_EQ(bad_row({1.0f, -kInf}, with(temperature), {1, -4, 2}, 1), -1);
  }
}

TEST(BadRow, IsTheFirstOne) {
  std::vector<float> logits(5 * 8, 1.0f);
  logits[2 * 8 + 3] = kNan;
  logits[4 * 8] = kInf;
  const std::vector<SampleKey> keys(5);
  std::vector<Sample> out(5);
  EXPECT_EQ(sample_rows_cpu(logits.data(), 5, 8, 8, keys.data(), nullptr, 0, with(1.0f), out.data()), 2);
  EXPECT_EQ(sample_rows_cpu(logits.data(), 2, 8, 8, keys.data(), nullptr, 0, with(1.0f), out.data()), -1);
  EXPECT_EQ(sample_rows_cpu(logits.data(), 0, 8, 8, keys.data(), nullptr, 0, with(1.0f), out.data()), -1);
}

TEST(Sampler, EqualsTheReference) {
  for (const size_t vocab : {1u, 2u, 5u, 33u, 1000u, 4099u}) {
    for (const double deviation : {0.5, 2.0, 8.0}) {
      const std::vector<float> logits = normal_logits(vocab, deviation, static_cast<uint32_t>(vocab));
      for (const float temperature : {0.5f, 1.0f, 1.7f}) {
        for (const int32_t top_k : {0, 1, 7, 500, 100000}) {
          for (const float top_p : {1.0f, 0.999f, 0.95f, 0.3f, 0.0f}) {
            SCOPED_TRACE(testing::Message() << "vocab " << vocab << " deviation " << deviation << " T " << temperature
                                            << " k " << top_k << " p " << top_p);
            for (uint32_t position = 0; position < 3; ++position) {
              expect_reference(logits, with(temperature, top_k, top_p), {99, 1, 2, position, 0});
            }
          }
        }
      }
    }
  }
}

TEST(Sampler, EqualsTheReferenceWithBarredIds) {
  const std::vector<float> logits = normal_logits(777, 3.0, 4);
  std::vector<int32_t> barred{776, 0, 5, 6, 400, 5, 12345, -1};
  barred.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  for (uint32_t position = 0; position < 50; ++position) {
    for (const float top_p : {1.0f, 0.9f}) {
      expect_reference(logits, with(0.8f, 0, top_p), {5, 0, 0, position, 1}, barred);
      expect_reference(logits, with(1.0f, 40, top_p), {5, 0, 0, position, 1}, barred);
      expect_reference(logits, with(1.0f, 40, top_p), {5, 0, 0, position, 0}, barred);
    }
  }
}

TEST(Sampler, EqualsTheReferenceWithMinP) {
  const std::vector<int32_t> barred{3, 5};
  for (const size_t vocab : {2u, 33u, 1000u, 4099u}) {
    for (const double deviation : {0.3, 2.0, 8.0}) {
      const std::vector<float> logits = normal_logits(vocab, deviation, static_cast<uint32_t>(vocab) + 1);
      for (const float temperature : {0.5f, 1.0f, 1.7f}) {
        for (const float min_p : {1e-30f, 1e-5f, 0.01f, 0.2f, 1.0f}) {
          for (const auto& [top_k, top_p] : {std::pair{0, 1.0f}, {40, 1.0f}, {0, 0.9f}, {500, 0.5f}}) {
            SCOPED_TRACE(testing::Message() << "vocab " << vocab << " deviation " << deviation << " T " << temperature
                                            << " k " << top_k << " p " << top_p << " min-p " << min_p);
            for (uint32_t position = 0; position < 3; ++position)
              expect_reference(logits, with(temperature, top_k, top_p, 5, min_p), {7, 2, 1, position, position % 2},
                               barred);
          }
        }
      }
    }
  }
}

// Where logits are large their spacing is a good part of a weight: the threshold lies between two of them, the upper is
// kept, the lower is not. Few and many ids are kept in different ways.
TEST(Sampler, MinPIsExactWhereLogitsAreFarApart) {
  const float temperature = 0.004f, top = 30001.0f;
  for (const float min_p : {0x1p-6f, 0.0157f, 0.3f}) {
    const float least = key_value(min_p_threshold(top, min_p_gap(temperature, min_p)));
    const float below = std::nextafter(least, 0.0f);
    const auto share = [&](float z) { return std::exp((static_cast<double>(z) - top) / temperature); };
    ASSERT_GE(share(least), min_p * 0.999999);
    ASSERT_LT(share(below), min_p * 0.999);
    for (const size_t vocab : {4u, 104u}) {
      std::vector<float> logits(vocab, 0.0f);
      logits[0] = top;
      logits[1] = least;
      logits[2] = below;
      std::set<int32_t> drawn;
      for (uint32_t position = 0; position < 2000; ++position) {
        const Sample got = sample_one(logits, with(temperature, 0, 1.0f, 3, min_p), {1, 0, 0, position, 0});
        drawn.insert(got.id);
        const double kept = std::log((1 + share(least)) / (1 + share(least) + share(below)));
        ASSERT_NEAR(got.log_kept, kept, 1e-5) << "min-p " << min_p << " vocab " << vocab;
      }
      EXPECT_EQ(drawn, (std::set<int32_t>{0, 1})) << "min-p " << min_p << " vocab " << vocab;
    }
  }
}

TEST(Sampler, MinPIsAShareOfTheLikeliestIdsProbabilityAndComesLast) {
  // Probabilities 0.4, 0.2, 0.2, 0.1, 0.1.
  std::vector<float> logits;
  for (const double p : {0.1, 0.2, 0.4, 0.2, 0.1}) logits.push_back(static_cast<float>(std::log(p)));
  const auto kept = [&](float temperature, float top_p, float min_p) {
    return std::exp(sample_one(logits, with(temperature, 0, top_p, 17, min_p)).log_kept);
  };
  EXPECT_NEAR(kept(1.0f, 1.0f, 0.24f), 1.0, 1e-6);
  EXPECT_NEAR(kept(1.0f, 1.0f, 0.26f), 0.8, 1e-6);
  EXPECT_NEAR(kept(1.0f, 1.0f, 0.51f), 0.4, 1e-6);
  EXPECT_NEAR(kept(1.0f, 1.0f, 1.0f), 0.4, 1e-6);
  // Top-p is of the whole distribution: 0.85 of it needs every id, of what min-p alone keeps it would need three.
  EXPECT_NEAR(kept(1.0f, 0.85f, 0.26f), 0.8, 1e-6);
  EXPECT_NEAR(kept(1.0f, 0.5f, 0.24f), 0.8, 1e-6);
  // At T 0.5 probabilities are squared, 16 4 4 1 1 of 26: 0.3 of the first keeps it alone.
  EXPECT_NEAR(kept(0.5f, 1.0f, 0.3f), 16.0 / 26, 1e-6);
  EXPECT_NEAR(kept(0.5f, 1.0f, 0.2f), 24.0 / 26, 1e-6);
  // Greedy draws nothing.
  EXPECT_EQ(sample_one(logits, with(0.0f, 0, 1.0f, 17, 0.5f)).log_kept, 0.0f);
}

TEST(Sampler, ABarredIdThatDominatesLeavesTheOthersTheirPrecision) {
  std::vector<float> logits = normal_logits(300, 1.0, 5);
  logits[7] = 500.0f;
  for (uint32_t position = 0; position < 50; ++position)
    expect_reference(logits, with(0.5f, 0, 0.9f), {1, 1, 1, position, 1}, {7});
}

TEST(Sampler, KeepsEveryIdThatTiesWithTheLast) {
  // Probabilities 0.4, 0.2, 0.2, 0.1, 0.1.
  std::vector<float> logits;
  for (const double p : {0.1, 0.2, 0.4, 0.2, 0.1}) logits.push_back(static_cast<float>(std::log(p)));
  EXPECT_NEAR(sample_one(logits, with(1.0f, 2)).log_kept, std::log(0.8), 1e-6);
  EXPECT_NEAR(sample_one(logits, with(1.0f, 0, 0.5f)).log_kept, std::log(0.8), 1e-6);
  EXPECT_NEAR(sample_one(logits, with(1.0f, 0, 0.39f)).log_kept, std::log(0.4), 1e-6);
  EXPECT_NEAR(sample_one(logits, with(1.0f, 0, 0.85f)).log_kept, 0.0, 1e-6);
  // Of the 0.8 that top-k keeps, 0.4 is half: p = 0.45 needs the heaviest alone, p = 0.55 all three.
  EXPECT_NEAR(sample_one(logits, with(1.0f, 2, 0.45f)).log_kept, std::log(0.4), 1e-6);
  EXPECT_NEAR(sample_one(logits, with(1.0f, 2, 0.55f)).log_kept, std::log(0.8), 1e-6);
  // -0 and +0 tie.
  EXPECT_NEAR(sample_one({0.0f, -0.0f, -1.0f}, with(1.0f, 1)).log_kept, std::log(2 / (2 + std::exp(-1.0))), 1e-6);
}

TEST(Sampler, DrawsEveryKeptIdAndNoOther) {
  const std::vector<float> logits = normal_logits(200, 1.0, 6);
  const SamplingParams params = with(0.9f, 12, 0.8f);
  std::set<int32_t> drawn;
  for (uint32_t position = 0; position < 4000; ++position)
    drawn.insert(sample_one(logits, params, {1, 0, 0, position, 0}).id);
  EXPECT_EQ(drawn, reference::sample(logits, {}, {}, params).kept);
}

TEST(Sampler, NeverDrawsMinusInfinity) {
  std::vector<float> logits(64, -kInf);
  logits[10] = -3.0f;
  logits[50] = -4.0f;
  std::set<int32_t> drawn;
  for (uint32_t position = 0; position < 500; ++position) {
    for (const auto& params : {with(1.0f), with(1.0f, 5), with(1.0f, 5, 0.999f), with(1.0f, 0, 0.999f)}) {
      drawn.insert(sample_one(logits, params, {1, 0, 0, position, 0}).id);
    }
  }
  EXPECT_EQ(drawn, (std::set<int32_t>{10, 50}));
}

TEST(Sampler, AVanishingTemperatureIsGreedyWithFairTies) {
  std::vector<float> logits = normal_logits(100, 1.0, 7);
  logits[20] = logits[60] = 10.0f;
  for (const float temperature : {1e-3f, 1e-10f, 1e-38f, 1e-45f}) {
    std::set<int32_t> drawn;
    for (uint32_t position = 0; position < 64; ++position) {
      const Sample got = sample_one(logits, with(temperature), {1, 0, 0, position, 0});
      drawn.insert(got.id);
      EXPECT_NEAR(got.sampling_logprob, -std::log(2.0), 1e-6);
    }
    EXPECT_EQ(drawn, (std::set<int32_t>{20, 60})) << temperature;
  }
}

TEST(Sampler, HugeLogitsAreNoProblem) {
  const Sample got = sample_one({3e38f, -3e38f, 2.9e38f}, with(0.1f, 2, 0.9f));
  EXPECT_EQ(got.id, 0);
  EXPECT_EQ(got.logprob, 0.0f);
}

TEST(Sampler, ARowDoesNotDependOnItsBatch) {
  const int64_t rows = 9, vocab = 777, stride = 800;
  std::vector<float> logits = normal_logits(static_cast<size_t>(rows * stride), 2.0, 8);
  std::vector<SampleKey> keys;
  for (uint32_t i = 0; i < rows; ++i) keys.push_back({i * 7919u, i, i % 3, i + 40, i % 2});
  const std::vector<int32_t> barred{3, 300};
  for (const auto& params : {with(0.0f), with(0.7f), with(0.7f, 20, 0.9f)}) {
    std::vector<Sample> all(static_cast<size_t>(rows));
    ASSERT_EQ(sample_rows_cpu(logits.data(), rows, vocab, stride, keys.data(), barred.data(), 2, params, all.data()),
              -1);
    for (int64_t row = rows - 1; row >= 0; --row) {
      Sample one{};
      ASSERT_EQ(sample_rows_cpu(logits.data() + row * stride, 1, vocab, vocab, &keys[static_cast<size_t>(row)],
                                barred.data(), 2, params, &one),
                -1);
      const Sample& expected = all[static_cast<size_t>(row)];
      EXPECT_EQ(one.id, expected.id);
      EXPECT_EQ(one.logprob, expected.logprob);
      EXPECT_EQ(one.sampling_logprob, expected.sampling_logprob);
      EXPECT_EQ(one.log_kept, expected.log_kept);
    }
  }
}

TEST(Sampler, EveryPartOfTheKeyAndTheSeedChangesTheStream) {
  const std::vector<float> flat(5000, 0.0f);
  std::set<int32_t> drawn;
  drawn.insert(sample_one(flat, with(1.0f), {1, 1, 1, 1, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f), {2, 1, 1, 1, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f), {uint64_t{1} << 40, 1, 1, 1, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f), {1, 2, 1, 1, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f), {1, 1, 2, 1, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f), {1, 1, 1, 2, 0}).id);
  drawn.insert(sample_one(flat, with(1.0f, 0, 1.0f, 18), {1, 1, 1, 1, 0}).id);
  EXPECT_EQ(drawn.size(), 7u);
}

// Pearson's chi-square of `draws` draws over consecutive keys against the reference probabilities.
double chi_square(const std::vector<float>& logits, const SamplingParams& params, int draws, bool over_candidates) {
  std::vector<int> count(logits.size());
  std::vector<double> probability(logits.size(), 0.0);
  for (int i = 0; i < draws; ++i) {
    const auto n = static_cast<uint32_t>(i);
    const Sample got =
        sample_one(logits, params, over_candidates ? SampleKey{4, 2, n, 9, 0} : SampleKey{n, 0, 0, 0, 0});
    ++count[static_cast<size_t>(got.id)];
    probability[static_cast<size_t>(got.id)] = std::exp(got.sampling_logprob);
  }
  double sum = 0, mass = 0;
  for (size_t id = 0; id < count.size(); ++id) {
    mass += probability[id];
    if (probability[id] > 0) sum += std::pow(count[id] - draws * probability[id], 2) / (draws * probability[id]);
  }
  EXPECT_NEAR(mass, 1.0, 1e-6);  // every kept id was drawn, and the sampling log-probs add up to 1
  return sum;
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits{0.0f, 1.0f, -1.0f, 2.0f, 0.5f, -2.0f, 1.5f, 0.0f};
  // 7 degrees of freedom: 29.9 is passed by chance once in 10,000; top-p 0.8 at T 0.7 keeps 2 ids: 15.1.
  EXPECT_LT(chi_square(logits, with(1.0f), 100000, false), 29.9);
  EXPECT_LT(chi_square(logits, with(1.0f), 100000, true), 29.9);
  EXPECT_LT(chi_square(logits, with(2.0f), 100000, true), 29.9);
  EXPECT_LT(chi_square(logits, with(0.7f, 0, 0.8f), 100000, true), 15.1);
  // Min-p 0.2 keeps the logits above 2 + ln 0.2 = 0.39, four ids; 3 degrees of freedom: 21.1.
  EXPECT_LT(chi_square(logits, with(1.0f, 0, 1.0f, 17, 0.2f), 100000, true), 21.1);
  // A flat row of 1,000: 999 degrees of freedom, mean 999, standard deviation 44.7.
  const double flat = chi_square(std::vector<float>(1000, 0.3f), with(1.0f), 100000, true);
  EXPECT_LT(flat, 999 + 4 * 44.7);
  EXPECT_GT(flat, 999 - 4 * 44.7);
}

TEST(Sampler, EveryCpuVariantGivesTheSameSample) {
  const std::vector<float> logits = normal_logits(5003, 3.0, 9);
  for (const auto& params : {with(0.0f), with(1.0f), with(0.5f, 0, 0.95f), with(1.5f, 2000), with(1.5f, 0, 0.97f),
                             with(1.0f, 0, 1.0f, 17, 0.05f)}) {
    for (uint32_t position = 0; position < 10; ++position) {
      const SampleKey key{3, 1, 0, position, 0};
      ASSERT_TRUE(use_isa("default"));
      const Sample expected = sample_one(logits, params, key);
      for (const RowOps* ops : available_row_ops()) {
        ASSERT_TRUE(use_isa(ops->name));
        const Sample got = sample_one(logits, params, key);
        EXPECT_EQ(got.id, expected.id) << ops->name;
        EXPECT_EQ(got.logprob, expected.logprob) << ops->name;
        EXPECT_EQ(got.sampling_logprob, expected.sampling_logprob) << ops->name;
        EXPECT_EQ(got.log_kept, expected.log_kept) << ops->name;
      }
    }
  }
  use_isa("");
}

TEST(KeptThreshold, KeysKeepTheOrderOfFloats) {
  const std::vector<float> ascending{-kInf, -3e38f, -1.0f, -1e-45f, 0.0f, 1e-45f, 1.0f, 3e38f, kInf};
  for (size_t i = 0; i < ascending.size(); ++i) {
    EXPECT_EQ(key_value(order_key(ascending[i])), ascending[i]);
    if (i > 0) {
      EXPECT_LT(order_key(ascending[i - 1]), order_key(ascending[i]));
    }
  }
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
  EXPECT_EQ(key_value(0), -kInf);
}

}  // namespace
}  // namespace stepward::kernels
