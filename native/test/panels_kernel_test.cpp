// Products against packed panels: equal to sums in double, the same bits whatever the number of rows and panels and on
// every instruction set with FMA, and bf16 panels against the same values in float.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "helpers/random_floats.h"
#include "kernels/isa.h"
#include "kernels/panels.h"

namespace stepward::kernels {
namespace {

using testing::random_floats;

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

struct Shape {
  int64_t rows, columns, k;
};
const Shape kShapes[] = {{1, 32, 8}, {3, 100, 7}, {12, 64, 33}, {13, 70, 96}, {40, 33, 130}};

class PanelsTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(use_isa(isa_name(GetParam()))); }
  void TearDown() override { use_isa(""); }
};

TEST_P(PanelsTest, ProductsEqualSumsInDouble) {
  for (const Shape& s : kShapes) {
    const auto a = random_floats(s.rows * s.k, 1), w = random_floats(s.columns * s.k, 2);
    const int64_t panels = panels_of(s.columns), width = panels * kPanel;
    std::vector<float> packed(panels * kPanel * s.k);
    pack_panels(w.data(), s.k, s.columns, s.k, packed.data());
    const auto start = random_floats(s.rows * width, 3);
    for (const PanelMode mode : {PanelMode::store, PanelMode::add, PanelMode::resume}) {
      std::vector<float> c = start;
      panel_ops().multiply(a.data(), s.k, s.rows, packed.data(), kPanel, kPanel * s.k, panels, s.k, c.data(), width,
                           mode);
      for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t j = 0; j < width; ++j) {
          double expected = mode == PanelMode::store ? 0 : start[r * width + j];
          for (int64_t i = 0; i < s.k && j < s.columns; ++i)
            expected += static_cast<double>(a[r * s.k + i]) * w[j * s.k + i];
          ASSERT_NEAR(c[r * width + j], expected, 2e-5) << s.rows << " rows, row " << r << " column " << j;
        }
      }
    }
  }
}

TEST_P(PanelsTest, ARowsBitsDoNotDependOnTheOthers) {
  const int64_t rows = 37, columns = 96, k = 50;
  const auto a = random_floats(rows * k, 4), w = random_floats(columns * k, 5);
  std::vector<float> packed(columns * k), all(rows * columns), one(columns);
  pack_panels(w.data(), k, columns, k, packed.data());
  const PanelOps& ops = panel_ops();
  ops.multiply(a.data(), k, rows, packed.data(), kPanel, kPanel * k, 3, k, all.data(), columns, PanelMode::store);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t p = 0; p < 3; ++p) {
      ops.multiply(a.data() + r * k, k, 1, packed.data() + p * kPanel * k, kPanel, 0, 1, k, one.data() + p * kPanel,
                   columns, PanelMode::store);
    }
    EXPECT_EQ(std::memcmp(one.data(), all.data() + r * columns, columns * sizeof(float)), 0) << "row " << r;
  }
}

TEST_P(PanelsTest, Bf16PanelsEqualTheirValuesInFloat) {
  for (const Shape& s : kShapes) {
    const int64_t padded = bf16_inputs(s.k), panels = panels_of(s.columns), width = panels * kPanel;
    std::vector<uint16_t> w(s.columns * s.k), a(s.rows * padded, 0);
    std::vector<float> wide_w(w.size()), wide_a(a.size(), 0);
    const auto values = random_floats(w.size() + a.size(), 6);
    for (size_t i = 0; i < w.size(); ++i) wide_w[i] = from_bf16(w[i] = to_bf16(values[i]));
    for (int64_t r = 0; r < s.rows; ++r) {
      for (int64_t i = 0; i < s.k; ++i) {
        const size_t at = r * padded + i;
        wide_a[at] = from_bf16(a[at] = to_bf16(values[w.size() + at]));
      }
    }
    std::vector<uint16_t> packed(panels * kPanel * padded);
    pack_bf16_panels(w.data(), s.k, s.columns, s.k, packed.data());
    std::vector<float> plain(panels * kPanel * s.k), expected(s.rows * width), got(s.rows * width);
    pack_panels(wide_w.data(), s.k, s.columns, s.k, plain.data());
    const PanelOps& ops = panel_ops();
    ops.multiply(wide_a.data(), padded, s.rows, plain.data(), kPanel, kPanel * s.k, panels, s.k, expected.data(), width,
                 PanelMode::store);
    ops.multiply_wide(wide_a.data(), padded, s.rows, packed.data(), kPanel * padded, panels, padded, got.data(), width,
                      PanelMode::store);
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
    if (ops.multiply_bf16 == nullptr) continue;
    const auto start = random_floats(got.size(), 9);
    for (const PanelMode mode : {PanelMode::store, PanelMode::add}) {
      got = start;
      ops.multiply_bf16(a.data(), padded, s.rows, packed.data(), kPanel * padded, panels, padded, got.data(), width,
                        mode);
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], expected[i] + (mode == PanelMode::add ? start[i] : 0), 2e-5) << ops.name << " " << i;
    }
  }
}

// Products in hardware, on the instruction sets that have them.
class Bf16ProductsTest : public PanelsTest {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Bf16ProductsTest);  // some CPUs have none

std::vector<Isa> isas_with_bf16() {
  std::vector<Isa> isas = available_isas();
  std::erase_if(isas, [](Isa isa) { return isa < Isa::avx512_bf16; });
  return isas;
}

TEST_P(Bf16ProductsTest, ABf16RowsBitsDoNotDependOnTheOthers) {
  const PanelOps& ops = panel_ops();
  const int64_t most = 70, panels = 3, width = panels * kPanel, k = 576;
  std::vector<uint16_t> a(most * k), w(width * k), packed(width * k);
  const auto values = random_floats(a.size() + w.size(), 10), start = random_floats(most * width, 11);
  for (size_t i = 0; i < a.size(); ++i) a[i] = to_bf16(values[i]);
  for (size_t i = 0; i < w.size(); ++i) w[i] = to_bf16(values[a.size() + i]);
  pack_bf16_panels(w.data(), k, width, k, packed.data());
  for (const PanelMode mode : {PanelMode::store, PanelMode::add}) {
    std::vector<float> one = start;
    for (int64_t r = 0; r < most; ++r) {
      for (int64_t p = 0; p < panels; ++p) {
        ops.multiply_bf16(a.data() + r * k, k, 1, packed.data() + p * kPanel * k, kPanel * k, 1, k,
                          one.data() + r * width + p * kPanel, width, mode);
      }
    }
    for (int64_t rows = 2; rows <= most; ++rows) {
      std::vector<float> all = start;
      ops.multiply_bf16(a.data(), k, rows, packed.data(), kPanel * k, panels, k, all.data(), width, mode);
      EXPECT_EQ(std::memcmp(all.data(), one.data(), rows * width * sizeof(float)), 0) << ops.name << " " << rows;
    }
  }
}

// Rows further apart than they are long, on both sides: nothing between them is read or written.
TEST_P(Bf16ProductsTest, Bf16ProductsKeepToTheirRows) {
  const PanelOps& ops = panel_ops();
  const int64_t panels = 3, width = panels * kPanel, k = 96, lda = k + 32, ldc = width + 16;
  const uint16_t nan = to_bf16(std::nanf(""));
  for (const int64_t rows : {1, 16, 17, 40}) {
    std::vector<uint16_t> a(rows * lda, nan), close(rows * k), w(width * k), packed(width * k);
    const auto values = random_floats(close.size() + w.size(), 12);
    for (size_t i = 0; i < close.size(); ++i) close[i] = a[i / k * lda + i % k] = to_bf16(values[i]);
    for (size_t i = 0; i < w.size(); ++i) w[i] = to_bf16(values[close.size() + i]);
    pack_bf16_panels(w.data(), k, width, k, packed.data());
    for (const PanelMode mode : {PanelMode::store, PanelMode::add}) {
      std::vector<float> expected(rows * width, 2.0f), got(rows * ldc, 2.0f);
      ops.multiply_bf16(close.data(), k, rows, packed.data(), kPanel * k, panels, k, expected.data(), width, mode);
      ops.multiply_bf16(a.data(), lda, rows, packed.data(), kPanel * k, panels, k, got.data(), ldc, mode);
      for (int64_t i = 0; i < rows * ldc; ++i) {
        ASSERT_EQ(got[i], i % ldc < width ? expected[i / ldc * width + i % ldc] : 2.0f)
            << ops.name << ", " << rows << " rows, element " << i;
      }
    }
  }
}

TEST_P(Bf16ProductsTest, ANanOfBf16OperandsStaysInItsRowAndColumn) {
  const PanelOps& ops = panel_ops();
  const int64_t rows = 21, width = 2 * kPanel, k = 64, row = 18, column = 35;
  const uint16_t one = to_bf16(1.0f), nan = to_bf16(std::nanf(""));
  std::vector<uint16_t> a(rows * k, one), w(width * k, one), packed(width * k);
  a[row * k + 7] = w[column * k + 40] = nan;
  pack_bf16_panels(w.data(), k, width, k, packed.data());
  std::vector<float> c(rows * width);
  ops.multiply_bf16(a.data(), k, rows, packed.data(), kPanel * k, 2, k, c.data(), width, PanelMode::store);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < width; ++j) {
      const float value = c[r * width + j];
      EXPECT_TRUE(r == row || j == column ? std::isnan(value) : value == static_cast<float>(k))
          << ops.name << ", row " << r << " column " << j << ": " << value;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, Bf16ProductsTest, ::testing::ValuesIn(isas_with_bf16()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

INSTANTIATE_TEST_SUITE_P(Isas, PanelsTest, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

TEST(Panels, EveryIsaWithFmaGivesTheSameBits) {
  const int64_t rows = 15, k = 200;
  const auto a = random_floats(rows * k, 7), w = random_floats(64 * k, 8);
  std::vector<float> packed(64 * k), first(rows * 64), other(rows * 64);
  pack_panels(w.data(), k, 64, k, packed.data());
  bool known = false;
  for (const Isa isa : available_isas()) {
    if (isa == Isa::baseline) continue;
    use_isa(isa_name(isa));
    std::vector<float>& c = known ? other : first;
    panel_ops().multiply(a.data(), k, rows, packed.data(), kPanel, kPanel * k, 2, k, c.data(), 64, PanelMode::store);
    if (known) {
      EXPECT_EQ(std::memcmp(first.data(), other.data(), first.size() * sizeof(float)), 0) << isa_name(isa);
    }
    known = true;
  }
  use_isa("");
}

TEST(Panels, ToBf16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(to_bf16(1.0f), 0x3F80);
  EXPECT_EQ(to_bf16(1.00390625f), 0x3F80);  // half way: to even
  EXPECT_EQ(to_bf16(1.01171875f), 0x3F82);  // half way: to even
  EXPECT_EQ(to_bf16(-INFINITY), 0xFF80);
  EXPECT_TRUE(std::isnan(from_bf16(to_bf16(std::nanf("1")))));
}

}  // namespace
}  // namespace stepward::kernels
