// Products of training against float64, for shapes that fill panels, tiles and stretches of the inner dimension and
// such that do not.
#include <gtest/gtest.h>

#include <vector>

#include "core/train/products.h"
#include "helpers/random_floats.h"
#include "kernels/isa.h"

namespace stepward {
namespace {

using testing::random_floats;

struct Shape {
  int64_t rows, inner, columns;
};

class ProductsTest : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::use_isa(kernels::isa_name(GetParam()))); }
  void TearDown() override { kernels::use_isa(""); }
};

// at(r, c) = sum over i of left(r, i) * right(i, c), added to 0.5 where `add`.
template <typename Left, typename Right>
void expect_product(const std::vector<float>& got, const Shape& s, bool add, const Left& left, const Right& right) {
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; ++c) {
      double expected = add ? 0.5 : 0.0;
      for (int64_t i = 0; i < s.inner; ++i) expected += static_cast<double>(left(r, i)) * right(i, c);
      ASSERT_NEAR(got[r * s.columns + c], expected, 1e-6 * (8 + static_cast<double>(s.inner)))
          << s.rows << " x " << s.inner << " x " << s.columns << ", row " << r << " column " << c;
    }
  }
}

TEST_P(ProductsTest, EqualSumsInDouble) {
  for (const Shape& s : {Shape{1, 1, 1}, {3, 5, 7}, {13, 64, 32}, {25, 600, 33}, {130, 40, 100}, {7, 1100, 64}}) {
    const auto x = random_floats(s.rows * s.inner, 1), w = random_floats(s.inner * s.columns, 2);
    for (const bool add : {false, true}) {
      std::vector<float> y(s.rows * s.columns, 0.5f);
      product_transposed_weight(x.data(), w.data(), s.rows, s.inner, s.columns, y.data(), add);
      expect_product(
          y, s, add, [&](int64_t r, int64_t i) { return x[r * s.inner + i]; },
          [&](int64_t i, int64_t c) { return w[c * s.inner + i]; });
      std::fill(y.begin(), y.end(), 0.5f);
      product(x.data(), w.data(), s.rows, s.inner, s.columns, y.data(), add);
      expect_product(
          y, s, add, [&](int64_t r, int64_t i) { return x[r * s.inner + i]; },
          [&](int64_t i, int64_t c) { return w[i * s.columns + c]; });
      std::fill(y.begin(), y.end(), 0.5f);
      product_over_rows(x.data(), w.data(), s.inner, s.rows, s.columns, y.data(), add);
      expect_product(
          y, s, add, [&](int64_t r, int64_t i) { return x[i * s.rows + r]; },
          [&](int64_t i, int64_t c) { return w[i * s.columns + c]; });
    }
  }
}

TEST_P(ProductsTest, ARowIsTheSameWhateverIsBesideIt) {
  const int64_t rows = 57, inner = 700, columns = 70;
  const auto x = random_floats(rows * inner, 3), w = random_floats(columns * inner, 4);
  std::vector<float> all(rows * columns), one(columns);
  product_transposed_weight(x.data(), w.data(), rows, inner, columns, all.data());
  for (int64_t r = 0; r < rows; ++r) {
    product_transposed_weight(x.data() + r * inner, w.data(), 1, inner, columns, one.data());
    for (int64_t c = 0; c < columns; ++c) ASSERT_EQ(one[c], all[r * columns + c]) << "row " << r;
  }
}

TEST(Products, NothingToAddUpIsZero) {
  std::vector<float> y{1, 2, 3, 4};
  product(nullptr, nullptr, 2, 0, 2, y.data(), true);
  EXPECT_EQ(y, (std::vector<float>{1, 2, 3, 4}));
  product(nullptr, nullptr, 2, 0, 2, y.data());
  EXPECT_EQ(y, std::vector<float>(4, 0.0f));
}

INSTANTIATE_TEST_SUITE_P(Isas, ProductsTest, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& info) { return std::string(kernels::isa_name(info.param)); });

}  // namespace
}  // namespace stepward
