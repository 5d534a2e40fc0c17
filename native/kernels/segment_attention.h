// Attention over the segments of a token tree. Keys and values lie in blocks of 32 tokens, a segment's in blocks of its
// own; chunks of at most kChunkTokens of a segment are the unit of work. A chunk is read once for all query rows below
// it, a row's results over its chunks are merged by log-sum-exp in path order, and a row's bits depend on nothing but
// its own path: not on the other rows, nor on whether chunks are shared (Hydragen, arXiv 2402.05099 section 3.1;
// DeFT, arXiv 2404.00242).
#pragma once

#include <cstdint>

#ifdef STEPWARD_CUDA
#include "device_operands.h"
#endif

namespace stepward::kernels {

constexpr int64_t kBlockTokens = 32;   // tokens of a block: one panel of keys
constexpr int64_t kChunkTokens = 256;  // tokens of a chunk: 8 blocks

// One KV head of one layer of one block: keys [head_dim, 32] (scores are a product with them), then values
// [32, value_width]. value_width is head_dim rounded up to 32; what lies beyond head_dim
// is not used. In bf16, which the CPU alone has, rows lie in pairs: keys [head_dim / 2, 32, 2], two elements of a token
// side by side, and values [16, value_width, 2], an element of two tokens.
inline int64_t value_width(int64_t head_dim) {
  return (head_dim + 31) / 32 * 32;
}
inline int64_t head_block_elements(int64_t head_dim) {
  return kBlockTokens * (head_dim + value_width(head_dim));
}

// Attention of some query rows to one chunk of one KV head. Entries are (row, chunk) pairs: entry e is row rows[e],
// sees tokens [first[e], last[e]) of the chunk, and leaves its result at part parts[e].
struct ChunkAttention {
  const float* q;  // [*, q_stride] f32: query heads of head_dim each, scaled by 1 / sqrt(head_dim)
  int64_t q_stride, head_dim;
  int64_t first_head, group;                   // the query heads first_head .. first_head + group - 1 share the KV head
  const float* const* head_blocks;             // [blocks] the KV head in each block of the chunk, or null
  const int32_t *rows, *parts, *first, *last;  // [entries]
  int64_t entries;
  // Of every (part, head): sum over visible tokens of exp(s - max) v, the maximum of s, and the sum of exp(s - max); 0,
  // -inf and 0 where nothing is visible.
  float* out;         // [parts, heads, value_width]
  float *max, *sum;   // [parts, heads]
  int64_t num_heads;  // of out, max and sum
  // Where head_blocks is null: blocks of bf16 bits in pairs. With AVX512-BF16 or AMX (where head_dim is a multiple of
  // 32) queries and weights are rounded to bf16 for their products, elsewhere keys and values are widened to f32 as
  // they are read.
  const uint16_t* const* bf16_blocks = nullptr;
};

void attend_chunk_cpu(const ChunkAttention& job);

// Merges parts [begin, end) of one row into out [heads * head_dim], part by part in order: with m the largest maximum,
// sum_p exp(max_p - m) out_p / sum_p exp(max_p - m) sum_p.
void merge_parts_cpu(const float* parts_out, const float* max, const float* sum, int64_t begin, int64_t end,
                     int64_t num_heads, int64_t head_dim, float* out);

#ifdef STEPWARD_CUDA
// A (row, chunk) pair as above.
struct alignas(16) AttentionEntry {
  int32_t row, part, first, last;
};

// The work of one thread block and KV head: the entries [entry_begin, entry_end), all of one chunk, which lies in the
// pool blocks blocks[block_begin .. block_begin + num_blocks). How a chunk's entries are split up changes no bit;
// pieces of at most kPieceQueries queries (entries times group) keep the GPU evenly busy. A piece without entries does
// nothing.
struct alignas(16) AttentionPiece {
  int32_t entry_begin, entry_end, block_begin, num_blocks;
};
constexpr int64_t kPieceQueries = 32;

// All chunks of a step in one launch; all pointers are to the device.
struct StepAttention {
  const float* q;  // as above
  int64_t q_stride, head_dim, num_heads, num_kv_heads;
  BlockPool pool;
  const AttentionPiece* pieces;
  int64_t num_pieces;
  const int32_t* blocks;
  const AttentionEntry* entries;  // entry e at entries[e * entry_stride]: a step has entries for each sliding window
  int64_t entry_stride;
  float *out, *max, *sum;  // as above
};
void attend_chunks_cuda(const StepAttention& job, void* stream);

// Row r merges the parts [part_offsets[r], part_offsets[r + 1]) into out [rows, num_heads * head_dim]; 0 where there
// are none.
void merge_parts_cuda(const float* parts_out, const float* max, const float* sum, const int32_t* part_offsets,
                      int64_t rows, int64_t num_heads, int64_t head_dim, const ProductInput& out, void* stream);
#endif

}  // namespace stepward::kernels
