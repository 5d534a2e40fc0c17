// CPU twin of segment_attention.h: scores of a tile of queries against the whole chunk by panel products, one softmax
// over them, and the sums of values by panel products again.
#include "exact_float.h"

#include "segment_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"
#include "panels.h"

namespace stepward::kernels {

struct RowSoftmax {
  float max, sum;
};

struct AttentionOps {
  RowSoftmax (*softmax)(float* s, int64_t begin, int64_t end, int64_t first, int64_t last);
  void (*weighted_add)(const float* x, int64_t n, float weight, bool fresh, float* out);
};

}  // namespace stepward::kernels

#define STEPWARD_BODY "segment_attention_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

const std::vector<const AttentionOps*> kVariants = STEPWARD_VARIANTS(AttentionOps);

const AttentionOps& attention_ops() {
  return *kVariants[static_cast<size_t>(isa())];
}

// Query rows that share one softmax pass; a multiple of every row tile of panels.h.
constexpr int64_t kTile = 12;

}  // namespace

void attend_chunk_cpu(const ChunkAttention& job) {
  const PanelOps& products = panel_ops();
  const AttentionOps& ops = attention_ops();
  const int64_t dim = job.head_dim, width = value_width(dim), queries = job.entries * job.group;
  thread_local std::vector<float> scratch;
  scratch.resize(static_cast<size_t>(kTile * (dim + kChunkTokens + width)));
  float *q = scratch.data(), *scores = q + kTile * dim, *sums = scores + kTile * kChunkTokens;

  for (int64_t begin = 0; begin < queries; begin += kTile) {
    const int64_t count = std::min(kTile, queries - begin);
    int64_t first = kChunkTokens, last = 0;
    for (int64_t t = 0; t < count; ++t) {
      const int64_t entry = (begin + t) / job.group, head = job.first_head + (begin + t) % job.group;
      std::copy_n(job.q + job.rows[entry] * job.q_stride + head * dim, dim, q + t * dim);
      first = std::min<int64_t>(first, job.first[entry]);
      last = std::max<int64_t>(last, job.last[entry]);
    }
    const int64_t first_block = first / kBlockTokens, end_block = (last + kBlockTokens - 1) / kBlockTokens;
    for (int64_t b = first_block; b < end_block; ++b) {
      products.multiply(q, dim, count, job.head_blocks[b], kPanel, 0, 1, dim, scores + b * kBlockTokens, kChunkTokens,
                        PanelMode::store);
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t entry = (begin + t) / job.group, head = job.first_head + (begin + t) % job.group;
      const int64_t at = job.parts[entry] * job.num_heads + head;
      RowSoftmax row{-std::numeric_limits<float>::infinity(), 0.0f};
      if (first_block < end_block) {
        row = ops.softmax(scores + t * kChunkTokens, first_block * kBlockTokens, end_block * kBlockTokens,
                          job.first[entry], job.last[entry]);
      }
      job.max[at] = row.max;
      job.sum[at] = row.sum;
    }
    std::fill_n(sums, count * width, 0.0f);
    for (int64_t b = first_block; b < end_block; ++b) {
      products.multiply(scores + b * kBlockTokens, kChunkTokens, count, job.head_blocks[b] + dim * kBlockTokens, width,
                        kPanel, width / kPanel, kBlockTokens, sums, width, PanelMode::resume);
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t entry = (begin + t) / job.group, head = job.first_head + (begin + t) % job.group;
      std::copy_n(sums + t * width, width, job.out + (job.parts[entry] * job.num_heads + head) * width);
    }
  }
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
