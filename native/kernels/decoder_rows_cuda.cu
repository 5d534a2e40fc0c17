// CUDA twin of decoder_rows.h. Every sum has a fixed order, so that a row's bits depend on that row alone; all but the
// sums of squares are the CPU twin's single IEEE operations.
#include "exact_float.h"

#include "decoder_rows.h"

#include "block_reduce.cuh"
#include "segment_attention.h"

namespace stepward::kernels {
namespace {

constexpr int kThreads = 256;

__device__ float inverse_rms(double total, int64_t n, float eps) {
  return 1.0f / sqrtf(exact_add(static_cast<float>(total / static_cast<double>(n)), eps));
}

__global__ void embed_kernel(const void* table, bool bf16, const int32_t* tokens, int64_t n, float* x) {
  const int64_t from = tokens[blockIdx.x] * n, to = blockIdx.x * n;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    if (bf16) {
      x[to + i] = bits_as<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(table)[from + i]) << 16);
    } else {
      x[to + i] = static_cast<const float*>(table)[from + i];
    }
  }
}

__global__ void drawn_tokens_kernel(const Sample* drawn, const int32_t* places, int64_t rows, int32_t* tokens) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rows) return;
  const int32_t id = drawn[places[r]].id;
  tokens[r] = id < 0 ? 0 : id;
}

__global__ void gather_rows_kernel(const void* const* from, int64_t halves, uint16_t* out) {
  const auto* row = static_cast<const uint16_t*>(from[blockIdx.x]);
  for (int64_t i = threadIdx.x; i < halves; i += kThreads) out[blockIdx.x * halves + i] = row[i];
}

__global__ void rms_norm_kernel(float* x, const float* add, int64_t n, float eps, const float* weight, ProductInput y) {
  __shared__ double shared[kThreads / kWarp];
  const int64_t row = blockIdx.x * n;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    float value = x[row + i];
    if (add != nullptr) {
      value = exact_add(value, add[row + i]);
      x[row + i] = value;
    }
    squares = fmaf(value, value, squares);
  }
  const float inverse = inverse_rms(block_reduce(static_cast<double>(squares), shared, Add{}), n, eps);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    put(y, row + i, exact_mul(exact_mul(x[row + i], inverse), weight[i]));
  }
}

// One warp for each query head, and for each KV head's key and value. A lane has the same elements throughout.
__global__ void rotary_write_kernel(float* qkv, BlockPool pool, RotaryWrite job, int64_t value_width,
                                    int64_t head_block) {
  const int64_t heads = job.heads + job.kv_heads, dim = job.head_dim, half = dim / 2;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int64_t row = warp / heads, head = warp % heads;
  const int lane = threadIdx.x % kWarp;
  if (row >= job.rows) return;
  const bool is_key = head >= job.heads;
  const int64_t slot = job.slots[row];
  if (is_key && slot < 0) return;

  float* x = qkv + (row * (heads + job.kv_heads) + head) * dim;
  const float* bias = job.bias == nullptr ? nullptr : job.bias + head * dim;
  const auto element = [&](int64_t i) { return bias == nullptr ? x[i] : exact_add(x[i], bias[i]); };
  const float* norm = is_key ? job.k_norm : job.q_norm;
  float inverse = 1.0f;
  if (norm != nullptr) {
    float squares = 0.0f;
    for (int64_t i = lane; i < half; i += kWarp) {
      const float a = element(i), b = element(half + i);
      squares = fmaf(b, b, fmaf(a, a, squares));
    }
    double total = squares;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, offset);
    inverse = inverse_rms(total, dim, job.eps);
  }

  float* to = nullptr;
  int64_t offset = 0;
  if (is_key) {
    offset = slot % kBlockTokens;
    to = block_of(pool, static_cast<int32_t>(slot / kBlockTokens)) + (head - job.heads) * head_block;
  }
  const int64_t turn = static_cast<int64_t>(job.positions[row]) * half;
  const float scale = is_key ? 1.0f : job.scale;
  for (int64_t i = lane; i < half; i += kWarp) {
    float a = element(i), b = element(half + i);
    if (norm != nullptr) {
      a = exact_mul(exact_mul(a, inverse), norm[i]);
      b = exact_mul(exact_mul(b, inverse), norm[half + i]);
    }
    const float c = job.cos[turn + i], s = job.sin[turn + i];
    const float low = exact_mul(exact_add(exact_mul(a, c), -exact_mul(b, s)), scale);
    const float high = exact_mul(exact_add(exact_mul(b, c), exact_mul(a, s)), scale);
    if (is_key) {
      to[i * kBlockTokens + offset] = low;
      to[(half + i) * kBlockTokens + offset] = high;
    } else {
      x[i] = low;
      x[half + i] = high;
    }
  }
  if (!is_key) return;
  // The value of the same KV head lies job.kv_heads heads further on.
  x += job.kv_heads * dim;
  if (bias != nullptr) bias += job.kv_heads * dim;
  to += dim * kBlockTokens + offset * value_width;
  for (int64_t i = lane; i < dim; i += kWarp) to[i] = element(i);
}

// As the CPU twin: with e = exp(-|g|), sigmoid(g) is 1 / (1 + e) for g >= 0, else e / (1 + e).
__global__ void silu_mul_kernel(const float* gate_up, int64_t n, ProductInput out) {
  const int64_t row = blockIdx.x, i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float gate = gate_up[row * 2 * n + i], up = gate_up[row * 2 * n + n + i];
  const float e = exp_f32(-fabsf(gate));
  const float sigmoid = (gate >= 0.0f ? 1.0f : e) / exact_add(e, 1.0f);
  put(out, row * n + i, exact_mul(exact_mul(gate, sigmoid), up));
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void embed_cuda(const void* table, bool bf16, const int32_t* tokens, int64_t rows, int64_t n, float* x, void* stream) {
  if (rows == 0) return;
  embed_kernel<<<static_cast<unsigned>(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(table, bf16, tokens, n,
                                                                                                x);
}

void drawn_tokens_cuda(const Sample* drawn, const int32_t* places, int64_t rows, int32_t* tokens, void* stream) {
  if (rows == 0) return;
  drawn_tokens_kernel<<<blocks_for(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(drawn, places, rows,
                                                                                            tokens);
}

void gather_rows_cuda(const void* const* from, int64_t rows, int64_t bytes, void* out, void* stream) {
  if (rows == 0) return;
  gather_rows_kernel<<<static_cast<unsigned>(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      from, bytes / 2, static_cast<uint16_t*>(out));
}

void rms_norm_cuda(float* x, const float* add, int64_t rows, int64_t n, float eps, const float* weight,
                   const ProductInput& y, void* stream) {
  if (rows == 0) return;
  rms_norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, add, n, eps,
                                                                                                   weight, y);
}

void rotary_write_cuda(float* qkv, const BlockPool& pool, const RotaryWrite& job, void* stream) {
  if (job.rows == 0) return;
  const unsigned blocks = blocks_for(job.rows * (job.heads + job.kv_heads) * kWarp);
  rotary_write_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      qkv, pool, job, value_width(job.head_dim), head_block_elements(job.head_dim));
}

void silu_mul_cuda(const float* gate_up, int64_t rows, int64_t n, const ProductInput& out, void* stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), blocks_for(n));
  silu_mul_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(gate_up, n, out);
}

}  // namespace stepward::kernels
