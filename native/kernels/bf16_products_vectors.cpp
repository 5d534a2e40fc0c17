// AVX512-BF16: a step adds two products to every sum, the odd k's first.
#include "exact_float.h"

#include "bf16_products.h"

#ifdef __x86_64__
#include <immintrin.h>

#include "isa_targets.h"
#include "panels_ahead.h"

STEPWARD_BF16_TARGET_BEGIN
namespace stepward::kernels {
namespace {

#include "with_count.inc"

constexpr int kRowTile = 12;

template <int M>
void run(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t k, float* c, int64_t ldc, PanelMode mode,
         Ahead ahead) {
  __m512 sum[M][2];
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < 2; ++j) sum[m][j] = _mm512_setzero_ps();
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

void multiply(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride, int64_t panels,
              int64_t k, float* c, int64_t ldc, PanelMode mode) {
  for (int64_t p = 0; p < panels; ++p) {
    const uint16_t* panel = b + p * panel_stride;
    over_tiles<kRowTile>(rows, [&]<int M>(int64_t r, int64_t t, int64_t tiles) {
      run<M>(a + r * lda, lda, panel, k, c + r * ldc + p * kPanel, ldc, mode,
             ahead_of(panel, panel + panel_stride, k / 2, 4 * kPanel, t, tiles));
    });
  }
}

}  // namespace

const Bf16Products kVectorProducts = {"avx512_bf16", kRowTile, multiply};

}  // namespace stepward::kernels
STEPWARD_TARGET_END
#endif  // __x86_64__
