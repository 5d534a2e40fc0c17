// Which ids top-k, top-p and min-p keep: radix selection over order-preserving keys for the first two, exact and never
// a sort, a comparison of logits for the last.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "exact_float.h"

namespace stepward::kernels {

// Unsigned keys in the order of the floats they come from; -0 and +0 get the same key. Not for NaN.
STEPWARD_HOST_DEVICE uint32_t order_key(float x) {
  const uint32_t bits = bits_as<uint32_t>(exact_add(x, 0.0f));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The float of a key; key 0, below every logit, gives -inf.
STEPWARD_HOST_DEVICE float key_value(uint32_t key) {
  if (key <= 0x007FFFFFu) return bits_as<float>(0xFF800000u);
  return bits_as<float>((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key);
}

// The mass a top-p set has to reach, p of `whole`, at least the heaviest id alone: an id is kept where the mass of all
// heavier ids is still below it. That keeps the id that crosses p, as transformers' TopPLogitsWarper does, and, unlike
// it, every id that ties with it.
STEPWARD_HOST_DEVICE uint64_t top_p_target(float top_p, uint64_t whole) {
  const double target = exact_mul(static_cast<double>(top_p), static_cast<double>(whole));
  if (!(target > 1.0)) return 1;
  const auto rounded_down = static_cast<uint64_t>(target);
  return rounded_down + (static_cast<double>(rounded_down) < target ? 1 : 0);
}

// How far below the maximum a logit may be under min-p, at most 0: p_i >= min_p p_max is z_i >= z_max + T ln(min_p).
inline double min_p_gap(float temperature, float min_p) {
  return static_cast<double>(temperature) * std::log(static_cast<double>(min_p));
}

// The key of the lowest logit that min-p keeps: the first float that is not below z_max + gap.
STEPWARD_HOST_DEVICE uint32_t min_p_threshold(float max, double gap) {
  const double least = exact_add(static_cast<double>(max), gap);
  const auto nearest = static_cast<float>(least);
  return order_key(nearest) + (static_cast<double>(nearest) < least ? 1 : 0);
}

struct KeptId {
  uint32_t key;  // order_key of the logit
  int32_t id;
  uint64_t mass;
};

uint64_t total_mass(const std::vector<KeptId>& list);

// The largest key such that `wanted` (>= 1) ids, or ids of mass `wanted`, have that key or a larger one; the smallest
// key of the list where all of it is not enough.
uint32_t count_threshold(const std::vector<KeptId>& list, uint64_t wanted);
uint32_t mass_threshold(const std::vector<KeptId>& list, uint64_t wanted);

// Keeps the ids with a key of at least `least`, in order, and returns their mass.
uint64_t drop_below(std::vector<KeptId>* list, uint32_t least);

}  // namespace stepward::kernels
