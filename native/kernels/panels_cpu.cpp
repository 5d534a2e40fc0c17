// Compiles panels_body.inc once per instruction set, adds the products of bf16 operands, and packs.
#include "exact_float.h"

#include "panels.h"

#include <algorithm>
#include <limits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "bf16_products.h"
#include "isa.h"
#include "panels_ahead.h"

#define STEPWARD_BODY "panels_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

#ifdef __x86_64__
PanelOps with_bf16(const Bf16Products& products) {
  PanelOps ops = avx512::kOps;
  ops.name = products.name;
  ops.bf16_row_tile = products.row_tile;
  ops.multiply_bf16 = products.multiply;
  return ops;
}
const PanelOps kVectorBf16 = with_bf16(kVectorProducts), kTileBf16 = with_bf16(kTileProducts);
#endif

const std::vector<const PanelOps*> kVariants = [] {
  std::vector<const PanelOps*> variants = STEPWARD_VARIANTS(PanelOps);
#ifdef __x86_64__
  variants.insert(variants.end(), {&kVectorBf16, &kTileBf16});
#endif
  return variants;
}();

}  // namespace

const PanelOps& panel_ops() {
  return variant_of(kVariants, isa());
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
  const int64_t padded = bf16_inputs(k);
  for (int64_t p = 0; p < panels_of(n); ++p) {
    const int64_t columns = std::min(kPanel, n - p * kPanel);
    uint16_t* panel = packed + p * kPanel * padded;
    if (columns < kPanel || padded != k) std::fill_n(panel, kPanel * padded, uint16_t{0});
    for (int64_t j = 0; j < columns; ++j) {
      const uint16_t* row = w + (p * kPanel + j) * ldw;
      for (int64_t i = 0; i < k; ++i) panel[(i / 2) * 2 * kPanel + 2 * j + i % 2] = row[i];
    }
  }
}

}  // namespace stepward::kernels
