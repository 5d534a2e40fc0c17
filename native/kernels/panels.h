// Matrix products against packed panels: the linear layers of rollouts and training, and training's attention. A
// panel holds kPanel columns with the inner dimension outermost, so that a product streams it once whatever the number
// of rows: near memory bandwidth for few rows, near the peak rate for many. An output element is one chain of fused
// multiply-adds in ascending k. It does not depend on the other rows of the call, and is the same on every CPU that has
// FMA. Calls are single-threaded; the caller splits panels or rows.
#pragma once

#include <cstdint>

namespace stepward::kernels {

constexpr int64_t kPanel = 32;       // columns of a panel
constexpr int64_t kBf16Inputs = 32;  // the inner dimension of bf16 operands is padded with zeros to a multiple of this

// What becomes of a product. store: c = a b; add: c = c + (a b), one addition; resume: the chain starts from c.
enum class PanelMode { store, add, resume };

struct PanelOps {
  const char* name;
  int64_t bf16_row_tile;  // rows that share one pass over a panel in multiply_bf16; 0 without it

  // c[r, 32 p + j] for r < rows, p < panels, over i < k of a[r, i] * b[p * panel_stride + i * ldb + j].
  // a [rows, k] f32 with row stride lda; c f32 with row stride ldc >= 32 * panels.
  void (*multiply)(const float* a, int64_t lda, int64_t rows, const float* b, int64_t ldb, int64_t panel_stride,
                   int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode);

  // The same with a transposed: a [k, rows] with row stride lda, for products with a sum over tokens.
  void (*multiply_transposed)(const float* a, int64_t lda, int64_t rows, const float* b, int64_t ldb,
                              int64_t panel_stride, int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode);

  // The same with bf16 panels of pairs, see pack_bf16_panels, widened to f32: half the memory traffic. k is a multiple
  // of 32.
  void (*multiply_wide)(const float* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride,
                        int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode);

  // bf16 by bf16 with f32 sums, in hardware (AVX512-BF16 or AMX-BF16, whose sums run in different orders); null where
  // the CPU has no such product. k is a multiple of 32, a is zero in the padding. Rows of a that start at multiples of
  // 64 bytes are read fastest. mode is store or add.
  void (*multiply_bf16)(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride,
                        int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode);

  // One panel of the 32 rows of w (row stride ldw), see pack_panels.
  void (*pack)(const float* w, int64_t ldw, int64_t k, float* panel);
};

// The variant of isa().
const PanelOps& panel_ops();

inline int64_t panels_of(int64_t columns) {
  return (columns + kPanel - 1) / kPanel;
}

// f32 panels of w [n, k] (row stride ldw), the weight of a linear layer: packed[p][i][j] = w[32 p + j][i], zero where
// 32 p + j >= n. `packed` has panels_of(n) * k * 32 elements.
void pack_panels(const float* w, int64_t ldw, int64_t n, int64_t k, float* packed);

// k rounded up to what bf16 operands have.
inline int64_t bf16_inputs(int64_t k) {
  return (k + kBf16Inputs - 1) / kBf16Inputs * kBf16Inputs;
}

// bf16 panels of pairs: packed[p][i / 2][j][i % 2] = w[32 p + j][i], zero where 32 p + j >= n or i >= k. `packed` has
// panels_of(n) * 32 * bf16_inputs(k) elements. w is bf16 bits.
void pack_bf16_panels(const uint16_t* w, int64_t ldw, int64_t n, int64_t k, uint16_t* packed);

// bf16 bits of x, rounded to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace stepward::kernels
