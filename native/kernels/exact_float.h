// Float maths that gives the same bits on every CPU and GPU: only single IEEE operations, never contracted into FMAs.
// Included first by every kernel source. What it does not cover: anything that may differ by rounding goes to libm.
#pragma once

#if defined(__CUDACC__)
// nvcc: the device code below asks for single operations by name; the host code of .cu files computes nothing.
#elif defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define STEPWARD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define STEPWARD_HOST_DEVICE inline
#endif

namespace stepward::kernels {

#ifdef __CUDA_ARCH__
STEPWARD_HOST_DEVICE float exact_mul(float a, float b) {
  return __fmul_rn(a, b);
}
STEPWARD_HOST_DEVICE float exact_add(float a, float b) {
  return __fadd_rn(a, b);
}
STEPWARD_HOST_DEVICE double exact_mul(double a, double b) {
  return __dmul_rn(a, b);
}
STEPWARD_HOST_DEVICE double exact_add(double a, double b) {
  return __dadd_rn(a, b);
}
STEPWARD_HOST_DEVICE double exact_div(double a, double b) {
  return __ddiv_rn(a, b);
}
#else
STEPWARD_HOST_DEVICE float exact_mul(float a, float b) {
  return a * b;
}
STEPWARD_HOST_DEVICE float exact_add(float a, float b) {
  return a + b;
}
STEPWARD_HOST_DEVICE double exact_mul(double a, double b) {
  return a * b;
}
STEPWARD_HOST_DEVICE double exact_add(double a, double b) {
  return a + b;
}
STEPWARD_HOST_DEVICE double exact_div(double a, double b) {
  return a / b;
}
#endif

template <typename To, typename From>
STEPWARD_HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Constants of exp_f32, shared with its vector form. The polynomial is (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, fitted
// to the smallest largest error; with the rounding of every step the result is within 1 ulp.
struct ExpConstants {
  static constexpr float lowest = -87.3f;  // e^x is taken as 0 below: it would soon be denormal
  static constexpr float log2_e = 1.44269504f;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  static constexpr float ln2_high = -0.693359375f, ln2_low = 2.12194440e-4f;  // high has 10 bits: n * high is exact
  static constexpr float p0 = 0.49999994f, p1 = 0.16666521f, p2 = 0.04166839f, p3 = 0.008368716f, p4 = 0.00138146f;
};

// e^x for x <= 88; 0 below -87.3 and at -inf; NaN stays NaN.
STEPWARD_HOST_DEVICE float exp_f32(float x) {
  using C = ExpConstants;
  const float shifted = exact_add(exact_mul(x, C::log2_e), C::round);
  const float n = exact_add(shifted, -C::round);
  const float r = exact_add(exact_add(x, exact_mul(n, C::ln2_high)), exact_mul(n, C::ln2_low));
  float p = exact_add(exact_mul(r, C::p4), C::p3);
  p = exact_add(exact_mul(p, r), C::p2);
  p = exact_add(exact_mul(p, r), C::p1);
  p = exact_add(exact_mul(p, r), C::p0);
  p = exact_add(exact_add(exact_mul(p, exact_mul(r, r)), r), 1.0f);
  const float power = bits_as<float>((bits_as<uint32_t>(shifted) << 23) + 0x3F800000u);
  return x < C::lowest ? 0.0f : exact_mul(p, power);
}

// Natural logarithm of a normal double x > 0, within 2 ulp, by log(x) = k ln 2 + 2 atanh((m - 1) / (m + 1)).
STEPWARD_HOST_DEVICE double log_f64(double x) {
  const uint64_t bits = bits_as<uint64_t>(x);
  int64_t k = static_cast<int64_t>(bits >> 52) - 1023;
  double m = bits_as<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
  if (m > 1.4142135623730951) {
    m = exact_mul(m, 0.5);
    ++k;
  }
  const double f = exact_add(m, -1.0);  // exact, so that values close to 1 keep their precision
  const double s = exact_div(f, exact_add(f, 2.0));
  const double z = exact_mul(s, s);
  constexpr double inverse_odd[] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                    1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
  double p = 0.0;
  for (const double c : inverse_odd) p = exact_add(exact_mul(p, z), c);
  const double mantissa = exact_mul(2.0, exact_add(s, exact_mul(exact_mul(s, z), p)));
  return exact_add(exact_mul(static_cast<double>(k), 0.6931471805599453), mantissa);
}

// Probability weights in (0, 1] are added up in fixed point with 40 fractional bits: the sum is the same in any order,
// so that thresholds agree between vector widths, threads and devices. 2^23 weights fit.
constexpr int kMassBits = 40;

STEPWARD_HOST_DEVICE uint64_t weight_mass(float weight) {
  return static_cast<uint64_t>(exact_mul(weight, 1099511627776.0f));
}

STEPWARD_HOST_DEVICE double log_mass(uint64_t mass) {
  return exact_add(log_f64(static_cast<double>(mass)), -kMassBits * 0.6931471805599453);
}

}  // namespace stepward::kernels
