// Random operands of kernel tests.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace stepward::testing {

// Normal with mean 0.
inline std::vector<float> random_floats(size_t count, uint32_t seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace stepward::testing
