// AMX-BF16: a step multiplies tiles of up to 16 rows by 32 k and of 32 k by 16 columns. The even and the odd k of a
// step are summed up apart, then joined and added to the sum, each rounded to nearest, denormals as 0 (Intel's manual,
// TDPBF16PS).
#include "exact_float.h"

#include "bf16_products.h"

#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>

#include "isa_targets.h"
#include "panels_ahead.h"
#include "tile_shapes.h"

STEPWARD_TILE_TARGET_BEGIN
namespace stepward::kernels {
namespace {

constexpr int64_t kTileRows = 16, kRowTile = 2 * kTileRows;  // a pass takes two tiles of rows
constexpr int64_t kStep = 32;                                // k of a tile
constexpr int64_t kPairBytes = kPanel * 2 * 2;               // two k of a panel
constexpr int64_t kStepBytes = kStep / 2 * kPairBytes;

// Where a pass leaves its sums: in c, or in `spare` to be added to c.
class Sums {
 public:
  Sums(float* c, int64_t ldc, PanelMode mode) : c_(c), ldc_(ldc), adds_(mode == PanelMode::add) {}

  float* at(int64_t row, int64_t column) { return adds_ ? spare_ + row * kSpare + column : c_ + row * ldc_ + column; }
  int64_t row_bytes() const { return (adds_ ? kSpare : ldc_) * static_cast<int64_t>(sizeof(float)); }

  // The rows [first, rows) of `columns` columns.
  void add(int64_t first, int64_t rows, int64_t columns) const {
    if (!adds_) return;
    for (int64_t r = first; r < rows; ++r) {
      for (int64_t j = 0; j < columns; j += 16) {
        float* to = c_ + r * ldc_ + j;
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_load_ps(spare_ + r * kSpare + j)));
      }
    }
  }

 private:
  static constexpr int64_t kSpare = 2 * kPanel;
  float* c_;
  int64_t ldc_;
  bool adds_;
  alignas(64) float spare_[kRowTile * kSpare];
};

inline void fetch(const char* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

// One panel and one tile of rows, or two, the second from row `split` on.
template <bool two>
void pass(const uint16_t* a, int64_t lda, int64_t split, const uint16_t* b, int64_t k, Sums& sums, Ahead ahead) {
  start_sums<two>();
  for (int64_t i = 0; i < k; i += kStep) {
    fetch(ahead.at + i / kStep * ahead.step, ahead.step);
    add_step<two>(a + i, a + split * lda + i, lda * 2, b + i * kPanel, kPairBytes);
  }
  store_sums<two>(sums.at(0, 0), sums.at(split, 0), sums.row_bytes());
}

// One tile of rows and two panels, panel_stride apart: four sums in flight hide how long a product
// takes. Tile 4 has the rows, 5 to 7 the panels' halves in turn.
void pass_pair(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t panel_stride, int64_t k, Sums& sums,
               Ahead ahead) {
  const int64_t row_bytes = lda * 2;
  start_sums<true>();
  for (int64_t i = 0; i < k; i += kStep) {
    const uint16_t *first = b + i * kPanel, *second = first + panel_stride;
    // Past the first panel's end lies the second, which is on its way: on to the pair that follows.
    const int64_t skipped = i >= k - kAheadBytes / kStepBytes * kStep ? panel_stride * 2 : 0;
    const char* at = ahead.at + i / kStep * ahead.step + skipped;
    fetch(at, ahead.step);
    fetch(at + panel_stride * 2, ahead.step);
    _tile_loadd(4, a + i, row_bytes);
    _tile_loadd(5, first, kPairBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, first + 32, kPairBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, second, kPairBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, second + 32, kPairBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  store_sums<true>(sums.at(0, 0), sums.at(0, kPanel), sums.row_bytes());
}

void multiply_few(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride, int64_t panels,
                  int64_t k, float* c, int64_t ldc, PanelMode mode) {
  TileShapes shapes;
  shapes.set({0, 1, 2, 3, 4}, rows);
  shapes.set({5, 6, 7}, kTileRows);
  shapes.load();
  for (int64_t p = 0; p < panels;) {
    const uint16_t* panel = b + p * panel_stride;
    const Ahead ahead = ahead_of(panel, panel, k / kStep, kStepBytes, 0, 1);
    Sums sums(c + p * kPanel, ldc, mode);
    const int64_t taken = p + 1 < panels ? 2 : 1;
    if (taken == 2) {
      pass_pair(a, lda, panel, panel_stride, k, sums, ahead);
    } else {
      pass<false>(a, lda, 0, panel, k, sums, ahead);
    }
    sums.add(0, rows, taken * kPanel);
    p += taken;
  }
}

// All passes take as many rows, so that tiles are shaped once: the last one begins where it ends with the last row, and
// what it makes again comes out the same.
void multiply_many(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride,
                   int64_t panels, int64_t k, float* c, int64_t ldc, PanelMode mode) {
  const int64_t passes = (rows + kRowTile - 1) / kRowTile, count = (rows + passes - 1) / passes,
                split = count - count / 2;
  TileShapes shapes;
  shapes.set({0, 1, 4}, split);
  shapes.set({2, 3, 5}, count - split);
  shapes.set({6, 7}, kTileRows);
  shapes.load();
  for (int64_t p = 0; p < panels; ++p) {
    const uint16_t* panel = b + p * panel_stride;
    for (int64_t i = 0; i < passes; ++i) {
      const int64_t row = std::min(i * count, rows - count);
      Sums sums(c + row * ldc + p * kPanel, ldc, mode);
      pass<true>(a + row * lda, lda, split, panel, k, sums,
                 ahead_of(panel, panel + panel_stride, k / kStep, kStepBytes, i, passes));
      sums.add(i * count - row, count, kPanel);
    }
  }
}

void multiply(const uint16_t* a, int64_t lda, int64_t rows, const uint16_t* b, int64_t panel_stride, int64_t panels,
              int64_t k, float* c, int64_t ldc, PanelMode mode) {
  if (rows == 0) return;
  const auto& some = rows <= kTileRows ? multiply_few : multiply_many;
  some(a, lda, rows, b, panel_stride, panels, k, c, ldc, mode);
  _tile_release();
}

}  // namespace

const Bf16Products kTileProducts = {"amx_bf16", kRowTile, multiply};

}  // namespace stepward::kernels
STEPWARD_TARGET_END
#endif  // __x86_64__
