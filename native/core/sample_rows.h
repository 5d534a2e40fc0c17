// Draws a token for every row of a logits matrix, on whichever device it is.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "kernels/sampler.h"

namespace stepward {

// logits [R, vocab] f32, keys [R] -> [R] samples on the host. Throws NUMERICAL naming the first row that holds NaN or
// +inf, or has nothing left to draw.
std::vector<kernels::Sample> sample_rows(const at::Tensor& logits, const std::vector<kernels::SampleKey>& keys,
                                         const std::vector<int32_t>& barred, const kernels::SamplingParams& params);

}  // namespace stepward
