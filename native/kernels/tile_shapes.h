// How many rows and columns AMX's tiles have, and what their loads need.
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

}  // namespace stepward::kernels
STEPWARD_TARGET_END
#endif  // __x86_64__
