// The row-wise steps of a decoder layer between its products. Pointers are to the device of the twin; f32. A CPU call
// is single-threaded and computes with single IEEE operations in a fixed order: the same bits on every CPU.
#pragma once

#include <cstdint>

#ifdef STEPWARD_CUDA
#include "device_operands.h"
#include "sampler.h"
#endif

namespace stepward::kernels {

struct DecoderRowOps {
  const char* name;
  // y = x / sqrt(mean(x^2) + eps) * weight, over n values (RMSNorm, arXiv 1910.07467 eq. 4). y may be x.
  void (*rms_norm)(const float* x, int64_t n, float eps, const float* weight, float* y);
  // In place on one head of 2 * half values, cos and sin [half]: (x1 cos - x2 sin, x2 cos + x1 sin) * scale, halves as
  // transformers lays them out (arXiv 2104.09864 eq. 34).
  void (*rotate)(float* x, int64_t half, const float* cos, const float* sin, float scale);
  // out = gate * sigmoid(gate) * up, over n values (SwiGLU, arXiv 2002.05202 eq. 5). out may be gate.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // bf16 bits of n values, rounded to nearest even.
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);
};

// The variant of isa().
const DecoderRowOps& decoder_row_ops();

#ifdef STEPWARD_CUDA
// x [rows, n] = the rows `tokens` [rows] of a table [*, n] of f32 values or bf16 bits.
void embed_cuda(const void* table, bool bf16, const int32_t* tokens, int64_t rows, int64_t n, float* x, void* stream);

// tokens[r] = the id of drawn[places[r]] for all rows, 0 where that is negative: nothing could be drawn.
void drawn_tokens_cuda(const Sample* drawn, const int32_t* places, int64_t rows, int32_t* tokens, void* stream);

// out [rows, bytes] = the bytes at from[r], a device pointer each. `bytes` is even.
void gather_rows_cuda(const void* const* from, int64_t rows, int64_t bytes, void* out, void* stream);

// x, y [rows, n]: rms_norm of each row of x. Where `add` [rows, n] is given, x = x + add comes first: the residual
// stream takes up the product before it. y may be x.
void rms_norm_cuda(float* x, const float* add, int64_t rows, int64_t n, float eps, const float* weight,
                   const ProductInput& y, void* stream);

// qkv [rows, (heads + 2 * kv_heads) * head_dim]; positions [rows]; cos, sin [positions, head_dim / 2]. Adds the bias,
// normalises queries and keys where q_norm and k_norm [head_dim] are given, rotates them, scales the queries in place
// by `scale`, and writes keys and values to slot slots[r] (block * 32 + offset) of the pool. Rows with a slot below 0
// write nothing to it.
struct RotaryWrite {
  int64_t rows, heads, kv_heads, head_dim;
  const int32_t* positions;
  const int64_t* slots;
  const float *cos, *sin, *q_norm, *k_norm;  // the last two may be null
  const float* bias;                         // [(heads + 2 * kv_heads) * head_dim], or null
  float eps, scale;
};
void rotary_write_cuda(float* qkv, const BlockPool& pool, const RotaryWrite& job, void* stream);

// gate_up [rows, 2 * n] with the gate's values first -> out [rows, n].
void silu_mul_cuda(const float* gate_up, int64_t rows, int64_t n, const ProductInput& out, void* stream);
#endif

}  // namespace stepward::kernels
