// The row-wise steps of a layer against their definitions in double, and the same bits on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "helpers/random_floats.h"
#include "kernels/decoder_rows.h"
#include "kernels/isa.h"
#include "kernels/panels.h"

namespace stepward::kernels {
namespace {

using testing::random_floats;

class DecoderRowsTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(use_isa(isa_name(GetParam()))); }
  void TearDown() override { use_isa(""); }
};

TEST_P(DecoderRowsTest, RmsNormEqualsItsDefinition) {
  for (const int64_t n : {1, 5, 16, 33, 576, 2100}) {
    const auto x = random_floats(n, 1, 3), weight = random_floats(n, 2);
    double square = 0;
    for (const float v : x) square += static_cast<double>(v) * v;
    const double inverse = 1 / std::sqrt(square / static_cast<double>(n) + 1e-5);
    std::vector<float> y(n);
    decoder_row_ops().rms_norm(x.data(), n, 1e-5f, weight.data(), y.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], x[i] * inverse * weight[i], 1e-6 * (1 + std::abs(y[i])));
  }
}

TEST_P(DecoderRowsTest, RotateTurnsHalvesAndScales) {
  for (const int64_t half : {1, 4, 20, 64}) {
    const auto x = random_floats(2 * half, 3);
    std::vector<float> cos(half), sin(half), y = x;
    for (int64_t i = 0; i < half; ++i) {
      cos[i] = std::cos(static_cast<float>(i));
      sin[i] = std::sin(static_cast<float>(i));
    }
    decoder_row_ops().rotate(y.data(), half, cos.data(), sin.data(), 0.25f);
    for (int64_t i = 0; i < half; ++i) {
      EXPECT_NEAR(y[i], 0.25 * (x[i] * cos[i] - x[half + i] * sin[i]), 1e-6);
      EXPECT_NEAR(y[half + i], 0.25 * (x[half + i] * cos[i] + x[i] * sin[i]), 1e-6);
    }
  }
}

TEST_P(DecoderRowsTest, SiluMulHoldsAtBothEnds) {
  std::vector<float> gate = random_floats(37, 4, 5), up = random_floats(37, 5);
  gate[0] = 200;
  gate[1] = -200;
  gate[2] = 0;
  std::vector<float> out(37);
  decoder_row_ops().silu_mul(gate.data(), up.data(), 37, out.data());
  for (int i = 0; i < 37; ++i) {
    const double expected = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
    EXPECT_NEAR(out[i], expected, 1e-6 * (1 + std::abs(expected))) << gate[i];
  }
}

TEST_P(DecoderRowsTest, ToBf16EqualsTheScalarForm) {
  std::vector<float> x = random_floats(45, 6, 100);
  x[3] = INFINITY;
  x[4] = std::nanf("");
  x[5] = 1.00390625f;
  std::vector<uint16_t> out(45);
  decoder_row_ops().to_bf16(x.data(), 45, out.data());
  for (int i = 0; i < 45; ++i) EXPECT_EQ(out[i], to_bf16(x[i])) << x[i];
}

INSTANTIATE_TEST_SUITE_P(Isas, DecoderRowsTest, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

TEST(DecoderRows, EveryIsaGivesTheSameBits) {
  const auto x = random_floats(700, 7), weight = random_floats(700, 8);
  std::vector<float> first;
  for (const Isa isa : available_isas()) {
    use_isa(isa_name(isa));
    const DecoderRowOps& ops = decoder_row_ops();
    std::vector<float> y(700), z(700);
    ops.rms_norm(x.data(), 700, 1e-6f, weight.data(), y.data());
    ops.silu_mul(y.data(), weight.data(), 700, z.data());
    ops.rotate(z.data(), 350, x.data(), weight.data(), 0.5f);
    if (first.empty()) first = z;
    EXPECT_EQ(std::memcmp(first.data(), z.data(), z.size() * sizeof(float)), 0) << isa_name(isa);
  }
  use_isa("");
}

}  // namespace
}  // namespace stepward::kernels
