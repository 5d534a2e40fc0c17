// Compiles panels_body.inc once per instruction set, adds the products of AVX512-BF16, and packs.
#include "exact_float.h"

#include "panels.h"

#include <algorithm>
#include <limits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"

namespace stepward::kernels {

// What to fetch from memory during a pass over a panel: `step` bytes on in each step of the loop.
struct Ahead {
  const char* at;
  int64_t step;
};

// A single tile of rows runs ahead into the panels that follow; of several tiles each brings its share of the next
// panel, so that memory is busy as long as the sums are. The hardware's own prefetching stops at every page, and few
// rows compute faster than it delivers. Short products (attention) read what is in the cache.
static inline Ahead ahead_of(const void* panel, const void* next, int64_t steps, int64_t tile, int64_t tiles) {
  constexpr int64_t kStepBytes = 128, kDistance = 96;
  if (steps < 128) return {static_cast<const char*>(panel), 0};
  if (tiles == 1) return {static_cast<const char*>(panel) + kDistance * kStepBytes, kStepBytes};
  const int64_t step = (kStepBytes + tiles - 1) / tiles;
  return {static_cast<const char*>(next) + tile * step * steps, step};
}

}  // namespace stepward::kernels

#define STEPWARD_BODY "panels_body.inc"
#include "isa_variants.inc"

#ifdef __x86_64__
STEPWARD_BF16_TARGET_BEGIN
namespace stepward::kernels::avx512bf16 {

#include "with_count.inc"

constexpr int kRowTile = 12;

template <int M>
static void run(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t k, float* c, int64_t ldc, PanelMode mode,
                Ahead ahead) {
  __m512 sum[M][2];
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < 2; ++j) {
      sum[m][j] = mode == PanelMode::resume ? _mm512_loadu_ps(c + m * ldc + 16 * j) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; i += 2) {
    __builtin_prefetch(ahead.at + i / 2 * ahead.step, 0, 2);
    __builtin_prefetch(ahead.at + i / 2 * ahead.step + 64, 0, 2);
    const __m512i low = _mm512_loadu_si512(b + i * kPanel), high = _mm512_loadu_si512(b + i * kPanel + 32);
    for (int m = 0; m < M; ++m) {
      int32_t pair;
      __builtin_memcpy(&pair, a + m * lda + i, sizeof(pair));
      const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      sum[m][0] = _mm512_dpbf16_ps(sum[m][0], x, reinterpret_cast<__m512bh>(low));
      sum[m][1] = _mm512_dpbf16_ps(sum[m][1], x, reinterpret_cast<__m512bh>(high));
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < 2; ++j) {
      float* at = c + m * ldc + 16 * j;
      _mm512_storeu_ps(at, mode == PanelMode::add ? _mm512_loadu_ps(at) + sum[m][j] : sum[m][j]);
    }
  }
}

static void multiply(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride,
                     int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode) {
  const int64_t tiles = (rows + kRowTile - 1) / kRowTile;
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t r = 0; r < rows; r += kRowTile) {
      const uint16_t* panel = b + p * panel_stride;
      with_count<kRowTile>(std::min<int64_t>(kRowTile, rows - r), [&]<int M>() {
        run<M>(a + r * lda, lda, panel, k, c + r * ldc + p * kPanel, ldc, mode,
               ahead_of(panel, panel + panel_stride, k / 2, r / kRowTile, tiles));
      });
    }
  }
}

}  // namespace stepward::kernels::avx512bf16
STEPWARD_BF16_TARGET_END
#endif  // __x86_64__

namespace stepward::kernels {
namespace {

const std::vector<const PanelOps*> kVariants = STEPWARD_VARIANTS(PanelOps);

#ifdef __x86_64__
const PanelOps kBf16 = [] {
  PanelOps ops = avx512::kOps;
  ops.multiply_bf16 = avx512bf16::multiply;
  return ops;
}();
#endif

}  // namespace

const PanelOps& panel_ops() {
#ifdef __x86_64__
  if (has_bf16_products()) return kBf16;
#endif
  return *kVariants[static_cast<size_t>(isa())];
}

void pack_panels(const float* w, int64_t ldw, int64_t n, int64_t k, float* packed) {
  for (int64_t p = 0; p < panels_of(n); ++p) {
    const int64_t columns = std::min(kPanel, n - p * kPanel);
    float* panel = packed + p * kPanel * k;
    if (columns == kPanel) {
      panel_ops().pack(w + p * kPanel * ldw, ldw, k, panel);
      continue;
    }
    std::fill_n(panel, kPanel * k, 0.0f);
    for (int64_t j = 0; j < columns; ++j) {
      const float* row = w + (p * kPanel + j) * ldw;
      for (int64_t i = 0; i < k; ++i) panel[i * kPanel + j] = row[i];
    }
  }
}

void pack_bf16_panels(const uint16_t* w, int64_t ldw, int64_t n, int64_t k, uint16_t* packed) {
  const int64_t even = k + k % 2;
  for (int64_t p = 0; p < panels_of(n); ++p) {
    const int64_t columns = std::min(kPanel, n - p * kPanel);
    uint16_t* panel = packed + p * kPanel * even;
    if (columns < kPanel || even != k) std::fill_n(panel, kPanel * even, uint16_t{0});
    for (int64_t j = 0; j < columns; ++j) {
      const uint16_t* row = w + (p * kPanel + j) * ldw;
      for (int64_t i = 0; i < k; ++i) panel[(i / 2) * 2 * kPanel + 2 * j + i % 2] = row[i];
    }
  }
}

}  // namespace stepward::kernels
