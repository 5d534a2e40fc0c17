// Inverse frequencies of rotary position embeddings. Every line is the ATen call transformers' Python line makes, in
// float32 and in the same order, so the tables agree to the bit on the same machine. Applying them is left to the
// model.
#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/where.h>

#include "stepward/model_config.h"

namespace stepward {

namespace {

constexpr double pi = 3.14159265358979323846;

at::Tensor position_wavelengths(double theta, int64_t dim) {
  const at::Tensor exponent = at::arange(0, dim, 2, at::kFloat) / static_cast<double>(dim);
  return at::pow(at::Scalar(theta), exponent);
}

// Llama 3.1: long wavelengths are stretched by factor, short ones kept, those between interpolated.
at::Tensor llama3(const at::Tensor& inv_freq, const RopeConfig& rope) {
  const double context = static_cast<double>(rope.original_max_positions);
  const double low_wavelength = context / rope.low_freq_factor;
  const double high_wavelength = context / rope.high_freq_factor;
  const at::Tensor wavelength = inv_freq.reciprocal() * (2 * pi);
  const at::Tensor stretched = at::where(wavelength > low_wavelength, inv_freq / rope.factor, inv_freq);
  const at::Tensor smooth =
      (wavelength.reciprocal() * context - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor smoothed = at::rsub(smooth, 1) * stretched / rope.factor + smooth * stretched;
  const at::Tensor between = at::logical_and(wavelength >= high_wavelength, wavelength <= low_wavelength);
  return at::where(between, smoothed, stretched);
}

// arXiv 2309.00071, section 3.2: the dimension whose wavelength fits `rotations` times into the trained context.
double correction_dim(double rotations, int64_t dim, const RopeConfig& rope) {
  return (static_cast<double>(dim) *
          std::log(static_cast<double>(rope.original_max_positions) / (rotations * 2 * pi))) /
         (2 * std::log(rope.theta));
}

// arXiv 2309.00071, eq. 23 ("NTK-by-parts"): a linear ramp between extrapolated and interpolated frequencies.
at::Tensor yarn(const at::Tensor& wavelengths, int64_t dim, const RopeConfig& rope) {
  double low = correction_dim(rope.beta_fast, dim, rope);
  double high = correction_dim(rope.beta_slow, dim, rope);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // as transformers: keeps the ramp finite

  const at::Tensor extrapolation = wavelengths.reciprocal();
  const at::Tensor interpolation = (wavelengths * rope.factor).reciprocal();
  const at::Tensor ramp = ((at::arange(dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const at::Tensor keep = at::rsub(ramp, 1);
  return interpolation * at::rsub(keep, 1) + extrapolation * keep;
}

// arXiv 2309.00071, eq. 22: the temperature on the logits, here as a factor on cos and sin. DeepSeek's mscale pair
// replaces it by a ratio.
double yarn_attention_factor(const RopeConfig& rope) {
  if (rope.attention_factor != 0) return rope.attention_factor;
  const auto scale = [&](double mscale) { return rope.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0; };
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) return scale(rope.mscale) / scale(rope.mscale_all_dim);
  return scale(1.0);
}

}  // namespace

RopeTable rope_table(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const at::Tensor wavelengths = position_wavelengths(rope.theta, config.head_dim);
  at::Tensor inv_freq = wavelengths.reciprocal();
  RopeTable table;
  switch (rope.kind) {
    case RopeKind::standard:
      break;
    case RopeKind::linear:
      inv_freq = inv_freq / rope.factor;
      break;
    case RopeKind::llama3:
      inv_freq = llama3(inv_freq, rope);
      break;
    case RopeKind::yarn:
      inv_freq = yarn(wavelengths, config.head_dim, rope);
      table.attention_scaling = static_cast<float>(yarn_attention_factor(rope));
      break;
  }
  inv_freq = inv_freq.contiguous();
  const float* data = inv_freq.const_data_ptr<float>();
  table.inv_freq.assign(data, data + inv_freq.numel());
  return table;
}

}  // namespace stepward
