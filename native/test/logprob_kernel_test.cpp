// Online log-sum-exp against a double reference, however the vocabulary is cut into blocks, and its backward pass.
#include "kernels/logprob.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa.h"
#include "kernels/row_ops.h"

namespace stepward::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Matrix {
  int64_t rows, cols;
  std::vector<float> data;
  std::vector<int32_t> targets;

  Matrix(int64_t r, int64_t c, double deviation, double offset, uint32_t seed) : rows(r), cols(c) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(offset, deviation);
    for (int64_t i = 0; i < r * c; ++i) data.push_back(static_cast<float>(normal(random)));
    for (int64_t i = 0; i < r; ++i) targets.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(c)));
  }
  float at(int64_t row, int64_t col) const { return data[static_cast<size_t>(row * cols + col)]; }
  float& at(int64_t row, int64_t col) { return data[static_cast<size_t>(row * cols + col)]; }

  double lse(int64_t row) const {
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < cols; ++c) top = std::max<double>(top, at(row, c));
    for (int64_t c = 0; c < cols; ++c) sum += std::exp(at(row, c) - top);
    return top + std::log(sum);
  }
  double logprob(int64_t row) const { return at(row, targets[static_cast<size_t>(row)]) - lse(row); }
};

struct State {
  std::vector<float> max, sum, target;

  double logprob(size_t row) const {
    return (static_cast<double>(target[row]) - max[row]) - std::log(static_cast<double>(sum[row]));
  }
};

// Folds the blocks that start at `cuts` (0 first), in the order given by `order` or ascending.
State fold(const Matrix& m, const std::vector<int64_t>& cuts, bool backwards = false) {
  const auto rows = static_cast<size_t>(m.rows);
  State s{std::vector<float>(rows, -kInf), std::vector<float>(rows, 0.0f), std::vector<float>(rows, 777.0f)};
  for (size_t k = 0; k < cuts.size(); ++k) {
    const size_t b = backwards ? cuts.size() - 1 - k : k;
    const int64_t end = b + 1 < cuts.size() ? cuts[b + 1] : m.cols;
    logprob_update_cpu({m.data.data() + cuts[b], m.rows, end - cuts[b], m.cols, cuts[b]}, m.targets.data(),
                       s.max.data(), s.sum.data(), s.target.data());
  }
  return s;
}

TEST(Logprob, EqualsTheDoubleReferenceForAnyBlocks) {
  for (const int64_t cols : {1, 7, 64, 1000, 4099, 50257}) {
    for (const double deviation : {0.1, 3.0, 20.0}) {
      const Matrix m(3, cols, deviation, 5.0, static_cast<uint32_t>(cols));
      std::vector<std::vector<int64_t>> cuttings{{0}};
      if (cols > 4) cuttings.push_back({0, 1, 4});
      if (cols > 900) cuttings.push_back({0, 17, 512, 513, 900});
      if (cols > 5000) cuttings.push_back({0, 8192, 16384, 24576, 32768, 40960, 49152});
      for (const auto& cuts : cuttings) {
        for (const bool backwards : {false, true}) {
          const State s = fold(m, cuts, backwards);
          for (size_t row = 0; row < 3; ++row) {
            const double expected = m.logprob(static_cast<int64_t>(row));
            EXPECT_NEAR(s.logprob(row), expected, 1e-6 + 1e-7 * std::abs(expected)) << cols << " " << deviation;
            EXPECT_EQ(s.target[row], m.at(static_cast<int64_t>(row), m.targets[row]));
          }
        }
      }
    }
  }
}

TEST(Logprob, HugeAndTinyLogitsKeepTheirPrecision) {
  for (const double offset : {-30000.0, -1e4, 1e4, 30000.0}) {
    const Matrix m(2, 3000, 2.0, offset, 5);
    const State s = fold(m, {0, 100, 1700});
    for (size_t row = 0; row < 2; ++row) EXPECT_NEAR(s.logprob(row), m.logprob(static_cast<int64_t>(row)), 2e-6);
  }
  Matrix spread(1, 100, 1e-30, 0.0, 6);
  EXPECT_NEAR(fold(spread, {0}).logprob(0), -std::log(100.0), 1e-6);
  spread.at(0, 3) = 3e38f;
  spread.at(0, 4) = -3e38f;
  spread.targets[0] = 3;
  EXPECT_EQ(fold(spread, {0, 4}).logprob(0), 0.0);
}

TEST(Logprob, MinusInfinityAddsNothing) {
  Matrix m(2, 500, 3.0, 0.0, 7);
  for (int64_t c = 0; c < 200; ++c) m.at(0, c) = -kInf;
  for (int64_t c = 0; c < 500; ++c) m.at(1, c) = -kInf;
  m.targets = {400, 3};
  for (const auto& cuts : std::vector<std::vector<int64_t>>{{0}, {0, 100, 200, 201}}) {
    const State s = fold(m, cuts);
    EXPECT_NEAR(s.logprob(0), m.logprob(0), 1e-6);
    EXPECT_EQ(s.sum[1], 0.0f);
    EXPECT_EQ(s.max[1], -kInf);
    EXPECT_EQ(s.target[1], -kInf);
  }
}

TEST(Logprob, NanAndInfinityMakeTheSumNan) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf}) {
    for (const int64_t at : {0, 250, 499}) {
      Matrix m(1, 500, 3.0, 0.0, 8);
      m.at(0, at) = bad;
      EXPECT_TRUE(std::isnan(fold(m, {0}).sum[0]));
      EXPECT_TRUE(std::isnan(fold(m, {0, 200, 300}).sum[0]));
      Matrix nothing(1, 500, 3.0, 0.0, 8);
      std::fill(nothing.data.begin(), nothing.data.end(), -kInf);
      nothing.at(0, at) = bad;
      EXPECT_TRUE(std::isnan(fold(nothing, {0, 200, 300}).sum[0]));
    }
  }
}

TEST(Logprob, TargetsOutsideTheBlockAreLeftAlone) {
  const Matrix m(2, 50, 1.0, 0.0, 9);
  Matrix other = m;
  other.targets = {10, 40};
  State s{{-kInf, -kInf}, {0, 0}, {777, 777}};
  logprob_update_cpu({other.data.data() + 20, 2, 20, 50, 20}, other.targets.data(), s.max.data(), s.sum.data(),
                     s.target.data());
  EXPECT_EQ(s.target, (std::vector<float>{777, 777}));
}

TEST(Logprob, RowsDoNotDependOnEachOther) {
  const Matrix m(5, 4097, 4.0, 0.0, 10);
  const State all = fold(m, {0, 1000});
  for (int64_t row = 0; row < 5; ++row) {
    Matrix one(1, 4097, 1.0, 0.0, 0);
    for (int64_t c = 0; c < 4097; ++c) one.at(0, c) = m.at(row, c);
    one.targets[0] = m.targets[static_cast<size_t>(row)];
    const State s = fold(one, {0, 1000});
    EXPECT_EQ(s.max[0], all.max[static_cast<size_t>(row)]);
    EXPECT_EQ(s.sum[0], all.sum[static_cast<size_t>(row)]);
  }
}

// The largest difference from the analytic gradient in double, relative to the largest gradient.
double backward_error(const Matrix& m, const std::vector<float>& grad, const std::vector<int64_t>& cuts) {
  std::vector<float> lse;
  for (int64_t row = 0; row < m.rows; ++row) lse.push_back(static_cast<float>(m.lse(row)));
  Matrix got = m;
  for (size_t b = 0; b < cuts.size(); ++b) {
    const int64_t end = b + 1 < cuts.size() ? cuts[b + 1] : m.cols;
    float* start = got.data.data() + cuts[b];
    logprob_backward_cpu(start, {start, m.rows, end - cuts[b], m.cols, cuts[b]}, m.targets.data(), lse.data(),
                         grad.data());
  }
  double worst = 0, largest = 0;
  for (int64_t row = 0; row < m.rows; ++row) {
    const double exact_lse = m.lse(row);
    for (int64_t c = 0; c < m.cols; ++c) {
      const double hot = c == m.targets[static_cast<size_t>(row)] ? 1.0 : 0.0;
      const double expected = grad[static_cast<size_t>(row)] * (hot - std::exp(m.at(row, c) - exact_lse));
      largest = std::max(largest, std::abs(expected));
      worst = std::max(worst, std::abs(got.at(row, c) - expected));
    }
  }
  return worst / largest;
}

TEST(Logprob, BackwardEqualsTheAnalyticGradient) {
  for (const int64_t cols : {5, 33, 1000, 50257}) {
    const Matrix m(3, cols, 3.0, 10.0, 11);
    const std::vector<float> grad{0.7f, -1.3f, 0.0f};
    EXPECT_LE(backward_error(m, grad, {0}), 2e-6) << cols;
    if (cols > 20) {
      EXPECT_LE(backward_error(m, grad, {0, 3, 20}), 2e-6) << cols;
    }
  }
}

TEST(Logprob, BackwardIsTheSlopeOfForward) {
  Matrix m(1, 40, 1.0, 0.0, 12);
  m.at(0, 7) = -kInf;
  m.targets[0] = 11;
  const float lse = static_cast<float>(m.lse(0));
  const float one = 1.0f;
  std::vector<float> gradient = m.data;
  logprob_backward_cpu(gradient.data(), {gradient.data(), 1, 40, 40, 0}, m.targets.data(), &lse, &one);
  EXPECT_EQ(gradient[7], 0.0f);
  for (int64_t c = 0; c < 40; ++c) {
    if (c == 7) continue;
    Matrix up = m, down = m;
    up.at(0, c) += 0x1p-6f;
    down.at(0, c) -= 0x1p-6f;
    const double slope =
        (fold(up, {0}).logprob(0) - fold(down, {0}).logprob(0)) / (static_cast<double>(up.at(0, c)) - down.at(0, c));
    EXPECT_NEAR(gradient[static_cast<size_t>(c)], slope, 5e-5) << c;
  }
}

TEST(Logprob, BackwardOfAZeroGradientIsZero) {
  Matrix m(1, 100, 3.0, 0.0, 13);
  const float lse = static_cast<float>(m.lse(0)), none = 0.0f;
  logprob_backward_cpu(m.data.data(), {m.data.data(), 1, 100, 100, 0}, m.targets.data(), &lse, &none);
  EXPECT_EQ(m.data, std::vector<float>(100, 0.0f));
}

TEST(Logprob, EveryCpuVariantGivesTheSameBits) {
  const Matrix m(2, 5003, 5.0, 1.0, 14);
  ASSERT_TRUE(use_isa("default"));
  const State expected = fold(m, {0, 1001});
  for (const RowOps* ops : available_row_ops()) {
    ASSERT_TRUE(use_isa(ops->name));
    const State s = fold(m, {0, 1001});
    EXPECT_EQ(s.max, expected.max) << ops->name;
    EXPECT_EQ(s.sum, expected.sum) << ops->name;
  }
  use_isa("");
}

}  // namespace
}  // namespace stepward::kernels
