// The vector loops over one row of logits that the CPU kernels are made of, chosen once for the machine's CPU.
// Every variant adds in the same order (32 lanes) and never fuses, so that all of them return the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "philox.h"

namespace stepward::kernels {

// Weight buffers are padded with zeros to a multiple of this, so that `draw` has no tail.
constexpr int64_t kWeightPad = 32;

struct RowMax {
  float max;  // -inf where there is nothing but -inf and NaN
  bool has_nan;
};

struct RowMass {
  int64_t count;
  uint64_t mass;  // see weight_mass
};

struct ExpSums {
  double plain, weighted;
};

struct RowOps {
  const char* name;

  RowMax (*max)(const float* x, int64_t n);
  // First index with x[i] >= value, or n.
  int64_t (*first_at_least)(const float* x, int64_t n, float value);
  // Sum of exp(x[i] - base), base >= every x[i].
  double (*sum_exp)(const float* x, int64_t n, float base);
  // The same, and beside it the sum of exp(x[i] - base) * x[i], to which -inf adds 0.
  ExpSums (*exp_sums)(const float* x, int64_t n, float base);
  // Sum of the masses of exp(x[i] - base).
  uint64_t (*exp_mass)(const float* x, int64_t n, float base);
  // weight[i] = exp((x[i] - base) * inverse_temperature) and the sum of their masses. Where `plain_mass` is given it
  // also receives exp_mass(x, n, plain_base), in the same pass.
  uint64_t (*weigh)(const float* x, int64_t n, float base, float inverse_temperature, float* weight, float plain_base,
                    uint64_t* plain_mass);
  // Count and mass of the weights >= cutoff.
  RowMass (*tally)(const float* weight, int64_t n, float cutoff);
  // Indices with x[i] >= cutoff, ascending, into `index` (room for n); returns how many.
  int64_t (*gather)(const float* x, int64_t n, float cutoff, int32_t* index);
  // weight[i] = 0 where x[i] < cutoff.
  void (*drop_below)(const float* x, int64_t n, float cutoff, float* weight);
  // Folds every id into `best`. `weight` holds n weights, padded (kWeightPad).
  void (*draw)(const float* weight, int64_t n, const NoiseStream& stream, Draw* best);
  // x[i] = exp(x[i] - base) * scale, in place.
  void (*scaled_exp)(float* x, int64_t n, float base, float scale);
};

// The variant of isa().
const RowOps& row_ops();

// The variants this CPU can run, narrowest first.
std::vector<const RowOps*> available_row_ops();

}  // namespace stepward::kernels
