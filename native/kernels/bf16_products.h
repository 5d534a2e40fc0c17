// Products of bf16 operands in hardware, for panels.h. The order of an element's additions depends on the instruction,
// so a process uses one of them for every number of rows.
#pragma once

#include <cstdint>

#include "panels.h"

namespace stepward::kernels {

struct Bf16Products {
  const char* name;
  int64_t row_tile;
  decltype(PanelOps::multiply_bf16) multiply;
};

#ifdef __x86_64__
extern const Bf16Products kVectorProducts;  // AVX512-BF16
extern const Bf16Products kTileProducts;    // AMX-BF16
#endif

}  // namespace stepward::kernels
