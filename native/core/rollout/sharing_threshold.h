// From how many rows on it pays to read a chunk of keys and values once for all of them, measured where the engine starts.
#pragma once

#include <cstdint>

namespace stepward {

// The least number of rows at which one item over a full chunk is quicker than an item for each row, on this CPU, for heads
// of this size with keys and values in bf16 or float32; a number larger than any step where it never is. Takes about a
// millisecond. Results are the same either way, so a measurement that a busy machine spoils costs time only.
int64_t measure_sharing_threshold(int64_t head_dim, int64_t group, bool bf16);

}  // namespace stepward
