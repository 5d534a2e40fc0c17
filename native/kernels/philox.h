// Philox4x32-10, the counter-based random generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011, section 3.3), and how the sampler addresses it. Stateless: noise depends on where it is used, nothing else.
#pragma once

#include "exact_float.h"

namespace stepward::kernels {

struct PhiloxConstants {
  static constexpr uint32_t m0 = 0xD2511F53u, m1 = 0xCD9E8D57u, w0 = 0x9E3779B9u, w1 = 0xBB67AE85u;
  static constexpr int rounds = 10;
};

struct PhiloxBlock {
  uint32_t word[4];
};

STEPWARD_HOST_DEVICE PhiloxBlock philox4x32_10(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  using C = PhiloxConstants;
  for (int round = 0; round < C::rounds; ++round) {
    const uint64_t a = static_cast<uint64_t>(C::m0) * counter.word[0];
    const uint64_t b = static_cast<uint64_t>(C::m1) * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += C::w0;
    key1 += C::w1;
  }
  return counter;
}

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection that spreads every input bit.
STEPWARD_HOST_DEVICE uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// The random stream of one row of the sampler: key mix(seed, tree_key), counter (position, v / 4, step, candidate).
struct NoiseStream {
  uint32_t key0, key1, position, step, candidate;

  // Words of the vocabulary ids 4 * block .. 4 * block + 3.
  STEPWARD_HOST_DEVICE PhiloxBlock block(uint32_t block) const {
    return philox4x32_10({{position, block, step, candidate}}, key0, key1);
  }
};

STEPWARD_HOST_DEVICE NoiseStream noise_stream(uint64_t seed, uint64_t tree_key, uint32_t position, uint32_t step,
                                              uint32_t candidate) {
  const uint64_t key = mix_bits(mix_bits(seed + 0x9E3779B97F4A7C15ull) ^ tree_key);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), position, step, candidate};
}

// One draw by Gumbel-max. With u uniform on (0, 1), E = -log(1 - u) is exponential and -log E is Gumbel, so the argmax
// of x + Gumbel is the argmax of e^x / E: no second logarithm, and no infinity, for u keeps 2^-33 away from 0 and
// from 1.
struct Draw {
  double score = -1.0;
  int32_t id = -1;

  STEPWARD_HOST_DEVICE void consider(int32_t candidate, float weight, uint32_t noise) {
    const double left = (static_cast<double>(~noise) + 0.5) * 0x1p-32;  // 1 - u, exact
    merge(exact_div(static_cast<double>(weight), -log_f64(left)), candidate);
  }

  // The lowest id wins a tie.
  STEPWARD_HOST_DEVICE void merge(double other_score, int32_t other_id) {
    if (other_score > score || (other_score == score && other_id < id)) {
      score = other_score;
      id = other_id;
    }
  }

  // Since E >= u, an id with weight < u * score() cannot win, whatever its logarithm. `can_win(weight, noise)` is that
  // test in float, on the safe side: weight >= half_noise(noise) * bar().
  STEPWARD_HOST_DEVICE float bar() const { return static_cast<float>(score * (0.999999 * 0x1p-31)); }
  // No noise lets a lighter id win.
  STEPWARD_HOST_DEVICE float least_weight() const { return static_cast<float>(score * (0.999 * 0x1p-33)); }
  STEPWARD_HOST_DEVICE static float half_noise(uint32_t noise) {
    return static_cast<float>(static_cast<int32_t>(noise >> 1));
  }
};

}  // namespace stepward::kernels
