// CUDA twin of logprob.h: one block per row, one pass for the maximum and one for the exponentials.
#include "exact_float.h"

#include "logprob.h"

#include "block_reduce.cuh"

namespace stepward::kernels {
namespace {

constexpr int kThreads = 256;

__device__ float lowest() {
  return bits_as<float>(0xFF800000u);
}

__global__ void update_kernel(LogitBlock block, const int32_t* targets, float* max, float* sum, float* target_logit,
                              float* weighted) {
  __shared__ float shared_float[kThreads / kWarp];
  __shared__ double shared_double[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  const float* logits = block.logits + row * block.stride;

  float top = lowest();
  for (int64_t i = threadIdx.x; i < block.cols; i += kThreads) top = logits[i] > top ? logits[i] : top;
  const float before = max[row];
  top = block_reduce(top, shared_float, Larger{});
  top = before > top ? before : top;

  // With nothing but -inf so far any finite base gives 0, and lets a NaN through.
  const float base = top == lowest() ? 0.0f : top;
  double total = 0.0, total_weighted = 0.0;
  for (int64_t i = threadIdx.x; i < block.cols; i += kThreads) {
    const float p = exp_f32(logits[i] - base);
    total += p;
    if (weighted != nullptr && logits[i] != lowest()) total_weighted += exact_mul(p, logits[i]);
  }
  total = block_reduce(total, shared_double, Add{});
  if (weighted != nullptr) total_weighted = block_reduce(total_weighted, shared_double, Add{});

  if (threadIdx.x == 0) {
    const float factor = top > before ? exp_f32(before - top) : 1.0f;
    const double state = sum[row] * static_cast<double>(factor);
    if (weighted != nullptr)
      weighted[row] = static_cast<float>(weighted[row] * static_cast<double>(factor) + total_weighted);
    max[row] = top;
    sum[row] = static_cast<float>(state + total);
    const int64_t column = targets[row] - block.col0;
    if (column >= 0 && column < block.cols) target_logit[row] = logits[column];
  }
}

__global__ void backward_kernel(float* logits, LogitBlock block, const int32_t* targets, const float* lse,
                                const float* grad) {
  const int64_t row = blockIdx.x;
  float* z = logits + row * block.stride;
  const float scale = grad[row];
  const float base = lse[row];
  const int64_t target = targets[row] - block.col0;
  for (int64_t i = threadIdx.x; i < block.cols; i += kThreads) {
    if (scale == 0.0f) {
      z[i] = 0.0f;
    } else {
      const float value = exact_mul(exp_f32(z[i] - base), -scale);
      z[i] = i == target ? value + scale : value;
    }
  }
}

}  // namespace

void logprob_update_cuda(const LogitBlock& block, const int32_t* targets, float* max, float* sum, float* target_logit,
                         float* weighted, void* stream) {
  if (block.rows == 0 || block.cols == 0) return;
  update_kernel<<<static_cast<unsigned>(block.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      block, targets, max, sum, target_logit, weighted);
}

void logprob_backward_cuda(float* logits, const LogitBlock& block, const int32_t* targets, const float* lse,
                           const float* grad, void* stream) {
  if (block.rows == 0 || block.cols == 0) return;
  backward_kernel<<<static_cast<unsigned>(block.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      logits, block, targets, lse, grad);
}

}  // namespace stepward::kernels
