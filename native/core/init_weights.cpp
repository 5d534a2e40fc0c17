// Random weights that are the same on every machine: only integer operations and the correctly rounded + - * / sqrt of
// IEEE doubles are used, never a library's log or a vectorised generator.
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "stepward/checkpoint.h"

// A fused multiply-add rounds once where two operations round twice: leave it out on every machine.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace stepward {

namespace {

uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

uint64_t splitmix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Natural log of 0 < x < 1 by log m = 2 atanh((m - 1) / (m + 1)) with m in [sqrt 1/2, sqrt 2); error below 1e-15.
double portable_log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double s2 = s * s;
  double series = 0;
  for (int k = 23; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return 2 * s * series + exponent * 0.693147180559945309417;
}

// sum_k coefficients[k] x^k
double polynomial(const std::array<double, 8>& coefficients, double x) {
  double value = 0;
  for (size_t k = coefficients.size(); k-- > 0;) value = value * x + coefficients[k];
  return value;
}

// Quantile of the standard normal: Wichura 1988, algorithm AS 241 (PPND16), relative error about 1e-16.
double normal_quantile(double p) {
  static constexpr std::array<double, 8> a{3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                                           1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                                           3.3430575583588128105e4, 2.5090809287301226727e3};
  static constexpr std::array<double, 8> b{1.0,
                                           4.2313330701600911252e1,
                                           6.8718700749205790830e2,
                                           5.3941960214247511077e3,
                                           2.1213794301586595867e4,
                                           3.9307895800092710610e4,
                                           2.8729085735721942674e4,
                                           5.2264952788528545610e3};
  static constexpr std::array<double, 8> c{
      1.42343711074968357734e0, 4.63033784615654529590e0,  5.76949722146069140550e0,  3.64784832476320460504e0,
      1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr std::array<double, 8> d{1.0,
                                           2.05319162663775882187e0,
                                           1.67638483018380384940e0,
                                           6.89767334985100004550e-1,
                                           1.48103976427480074590e-1,
                                           1.51986665636164571966e-2,
                                           5.47593808499534494600e-4,
                                           1.05075007164441684324e-9};
  static constexpr std::array<double, 8> e{
      6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,  2.96560571828504891230e-1,
      2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static constexpr std::array<double, 8> f{1.0,
                                           5.99832206555887937690e-1,
                                           1.36929880922735805310e-1,
                                           1.48753612908506148525e-2,
                                           7.86869131145613259100e-4,
                                           1.84631831751005468180e-5,
                                           1.42151175831644588870e-7,
                                           2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(a, r) / polynomial(b, r);
  }
  const double r = std::sqrt(-portable_log(q < 0 ? p : 1 - p));
  const double tail =
      r <= 5 ? polynomial(c, r - 1.6) / polynomial(d, r - 1.6) : polynomial(e, r - 5) / polynomial(f, r - 5);
  return q < 0 ? -tail : tail;
}

// N(0, deviation); element i depends on (seed, name, i) alone.
at::Tensor normal(const ExpectedTensor& expected, uint64_t seed, double deviation) {
  at::Tensor tensor = at::empty(expected.shape, at::kFloat);
  float* data = tensor.mutable_data_ptr<float>();
  const uint64_t key = splitmix64(splitmix64(seed + 0x9e3779b97f4a7c15) ^ fnv1a(expected.name));
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const uint64_t bits = splitmix64(key + (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15);
    // The middle of one of 2^52 cells: never 0 or 1, and exact in a double.
    const double p = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
    data[i] = static_cast<float>(deviation * normal_quantile(p));
  }
  return tensor;
}

}  // namespace

TensorMap init_weights(const ModelConfig& config, uint64_t seed, at::ScalarType dtype) {
  TensorMap weights;
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const bool matrix = expected.shape.size() == 2;
    const bool bias = expected.name.ends_with(".bias");
    at::Tensor tensor = matrix ? normal(expected, seed, config.initializer_range).to(dtype)
                        : bias ? at::zeros(expected.shape, dtype)
                               : at::ones(expected.shape, dtype);
    weights.emplace(expected.name, std::move(tensor));
  }
  return weights;
}

}  // namespace stepward
