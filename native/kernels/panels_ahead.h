// What products against panels fetch from memory while they compute.
#pragma once

#include <cstdint>

namespace stepward::kernels {

// In step i of a pass over a panel: `step` bytes from `at + i * step` on.
struct Ahead {
  const char* at;
  int64_t step;
};

constexpr int64_t kAheadBytes = int64_t{12} << 10;  // how far a single tile runs ahead

// Of a pass of `steps` steps, each over `step_bytes` of the panel, for one of `tiles` tiles of rows. A single tile runs
// ahead into the panels that follow; of several tiles each brings its share of the next panel, so that memory is busy
// as long as the sums are. The hardware's own prefetching stops at every page, and few rows compute faster than it
// delivers. Short products (attention) read what is in the cache.
inline Ahead ahead_of(const void* panel, const void* next, int64_t steps, int64_t step_bytes, int64_t tile,
                      int64_t tiles) {
  constexpr int64_t kShort = int64_t{16} << 10;
  if (steps * step_bytes < kShort) return {static_cast<const char*>(panel), 0};
  if (tiles == 1) return {static_cast<const char*>(panel) + kAheadBytes, step_bytes};
  const int64_t step = (step_bytes + tiles - 1) / tiles;
  return {static_cast<const char*>(next) + tile * step * steps, step};
}

}  // namespace stepward::kernels
