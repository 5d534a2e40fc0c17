// AMX tiles: how many rows and columns they have, and the sums that products and attention make in them.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

#include "isa_targets.h"

STEPWARD_TILE_TARGET_BEGIN
namespace stepward::kernels {

// Every tile that is used gets 64 bytes a row: 32 bf16, or 16 sums. The layout is that of LDTILECFG.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(std::initializer_list<int> tiles, int64_t count) {
    for (const int tile : tiles) {
      row_bytes[tile] = 64;
      rows[tile] = static_cast<uint8_t>(count);
    }
  }
  void load() const {
    asm volatile("" : : "r"(this) : "memory");  // GCC does not see all that the instruction reads
    _tile_loadconfig(this);
  }
};

// Before the first load of a pass: GCC does not see that tile loads read memory, and could leave stores for later.
inline void finish_stores() {
  asm volatile("" : : : "memory");
}

// Sums of 32 columns in tiles 0 and 1, and with `two` of more rows in 2 and 3. Tiles 4 and 5 take rows, 6 and 7
// columns.
template <bool two>
void start_sums() {
  finish_stores();
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (two) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// Adds 32 terms: rows of x are row_bytes apart, the second tile's begin at `second`; pairs of rows of `columns` are
// pair_bytes apart.
template <bool two>
void add_step(const uint16_t* x, const uint16_t* second, int64_t row_bytes, const uint16_t* columns,
              int64_t pair_bytes) {
  _tile_loadd(6, columns, pair_bytes);
  _tile_loadd(4, x, row_bytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, columns + 32, pair_bytes);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (two) {
    _tile_loadd(5, second, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

template <bool two>
void store_sums(float* to, float* second, int64_t row_bytes) {
  _tile_stored(0, to, row_bytes);
  _tile_stored(1, to + 16, row_bytes);
  if constexpr (two) {
    _tile_stored(2, second, row_bytes);
    _tile_stored(3, second + 16, row_bytes);
  }
}

}  // namespace stepward::kernels
STEPWARD_TARGET_END
#endif  // __x86_64__
