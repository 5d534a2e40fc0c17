// CPU twin of segment_attention.h: scores of a tile of queries against the whole chunk, one softmax over them, and the
// sums of values. Once per instruction set, and with the products of AVX512-BF16 and of AMX.
#include "exact_float.h"

#include "segment_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"
#include "isa_targets.h"
#include "panels.h"
#include "tile_shapes.h"

namespace stepward::kernels {

struct RowSoftmax {
  float max, sum;
};

struct AttentionOps {
  void (*attend_chunk)(const ChunkAttention& job);
  void (*weighted_add)(const float* x, int64_t n, float weight, bool fresh, float* out);
};

}  // namespace stepward::kernels

#define STEPWARD_BODY "segment_attention_body.inc"
#include "isa_variants.inc"

#ifdef __x86_64__
STEPWARD_BF16_TARGET_BEGIN
namespace stepward::kernels::avx512bf16 {
#define STEPWARD_VECTOR_BYTES 64
#define STEPWARD_BF16_PRODUCTS
#include STEPWARD_BODY
#undef STEPWARD_VECTOR_BYTES
#undef STEPWARD_BF16_PRODUCTS
}  // namespace stepward::kernels::avx512bf16
STEPWARD_TARGET_END

STEPWARD_TILE_TARGET_BEGIN
namespace stepward::kernels::amx {
#define STEPWARD_VECTOR_BYTES 64
#define STEPWARD_BF16_PRODUCTS
#define STEPWARD_BF16_TILES
#include STEPWARD_BODY
#undef STEPWARD_VECTOR_BYTES
#undef STEPWARD_BF16_PRODUCTS
#undef STEPWARD_BF16_TILES
}  // namespace stepward::kernels::amx
STEPWARD_TARGET_END
#endif  // __x86_64__

namespace stepward::kernels {
namespace {

const std::vector<const AttentionOps*> kVariants = [] {
  std::vector<const AttentionOps*> variants = STEPWARD_VARIANTS(AttentionOps);
#ifdef __x86_64__
  variants.insert(variants.end(), {&avx512bf16::kOps, &amx::kOps});
#endif
  return variants;
}();

const AttentionOps& attention_ops() {
  return variant_of(kVariants, isa());
}

}  // namespace

void attend_chunk_cpu(const ChunkAttention& job) {
  attention_ops().attend_chunk(job);
}

void merge_parts_cpu(const float* parts_out, const float* max, const float* sum, int64_t begin, int64_t end,
                     int64_t num_heads, int64_t head_dim, float* out) {
  const AttentionOps& ops = attention_ops();
  const int64_t width = value_width(head_dim);
  for (int64_t head = 0; head < num_heads; ++head) {
    float top = -std::numeric_limits<float>::infinity();
    for (int64_t p = begin; p < end; ++p) top = std::max(top, max[p * num_heads + head]);
    float total = 0.0f;
    bool fresh = true;
    float* row = out + head * head_dim;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = p * num_heads + head;
      if (sum[at] == 0.0f) continue;
      const float weight = exp_f32(max[at] - top);
      total += weight * sum[at];
      ops.weighted_add(parts_out + at * width, head_dim, weight, fresh, row);
      fresh = false;
    }
    ops.weighted_add(row, head_dim, 1.0f / total, true, row);
  }
}

}  // namespace stepward::kernels
