// CPU twin of logprob.h: chunk by chunk, maximum first and exponentials second while the chunk is in the nearest cache.
#include "exact_float.h"

#include "logprob.h"

#include <algorithm>
#include <limits>

#include "row_ops.h"

namespace stepward::kernels {
namespace {

constexpr int64_t kChunk = 4096;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

}  // namespace

void logprob_update_cpu(const LogitBlock& block, const int32_t* targets, float* max, float* sum, float* target_logit,
                        float* weighted) {
  const RowOps& ops = row_ops();
  for (int64_t row = 0; row < block.rows; ++row) {
    const float* logits = block.logits + row * block.stride;
    float top = max[row];
    double total = sum[row], total_weighted = weighted != nullptr ? weighted[row] : 0.0;
    for (int64_t begin = 0; begin < block.cols; begin += kChunk) {
      const int64_t count = std::min(kChunk, block.cols - begin);
      const float chunk_top = ops.max(logits + begin, count).max;
      if (chunk_top > top) {
        const float factor = exp_f32(top - chunk_top);
        total *= factor;
        total_weighted *= factor;
        top = chunk_top;
      }
      // With nothing but -inf so far any finite base gives 0, and lets a NaN through.
      const float base = top == kLowest ? 0.0f : top;
      if (weighted == nullptr) {
        total += ops.sum_exp(logits + begin, count, base);
        continue;
      }
      const ExpSums sums = ops.exp_sums(logits + begin, count, base);
      total += sums.plain;
      total_weighted += sums.weighted;
    }
    max[row] = top;
    sum[row] = static_cast<float>(total);
    if (weighted != nullptr) weighted[row] = static_cast<float>(total_weighted);
    const int64_t column = targets[row] - block.col0;
    if (column >= 0 && column < block.cols) target_logit[row] = logits[column];
  }
}

void logprob_backward_cpu(float* logits, const LogitBlock& block, const int32_t* targets, const float* lse,
                          const float* grad) {
  const RowOps& ops = row_ops();
  for (int64_t row = 0; row < block.rows; ++row) {
    float* z = logits + row * block.stride;
    if (grad[row] == 0.0f) {
      std::fill_n(z, block.cols, 0.0f);
      continue;
    }
    ops.scaled_exp(z, block.cols, lse[row], -grad[row]);
    const int64_t column = targets[row] - block.col0;
    if (column >= 0 && column < block.cols) z[column] += grad[row];
  }
}

}  // namespace stepward::kernels
