// Attention over token trees with gradients, without a mask: every query meets the keys on its path and no others, each
// product is of whole blocks of 32 keys, and only what is partly visible is looked at element by element. f32, on the
// CPU. A token's result depends on its own tree alone, bit for bit, whatever else is packed beside it.
#pragma once

#include <cstdint>
#include <vector>

namespace stepward::kernels {

constexpr int64_t kKeyBlock = 32;

// Segments that follow each other both in the token order and on a path: a trunk is one run however often it is cut.
struct AttentionRun {
  int32_t first_token, tokens;
  int32_t position;              // of its first token in its tree
  int32_t first_block;           // of its keys and values, blocks of 32 tokens that begin with the run
  int32_t path_begin, path_end;  // its ancestors, root first: entries of AttentionPlan::path
};

// The first `tokens` tokens of a run.
struct AttentionRange {
  int32_t run, tokens;
};

struct AttentionPlan {
  std::vector<AttentionRun> runs;  // those of a tree side by side, ancestors first
  std::vector<AttentionRange> path;
  std::vector<int32_t> tree_run{0};    // [trees + 1] first run of each tree
  std::vector<int32_t> tree_block{0};  // [trees + 1] first block of each tree
  int64_t num_trees() const { return static_cast<int64_t>(tree_run.size()) - 1; }
  int64_t num_blocks() const { return tree_block.back(); }
};

// Queries q [T, heads, head_dim], keys and values k, v [T, kv_heads, head_dim], all contiguous f32; query head h reads
// KV head h / (heads / kv_heads). `window` > 0: only the last `window` positions are visible, the query's own included.
struct TreeAttention {
  const AttentionPlan* plan;
  int64_t tokens, heads, kv_heads, head_dim, window;
  float scale;  // of the scores
  int threads;
  const float *q, *k, *v;
};

// out [T, heads, head_dim] = softmax(scale q k^T) v, lse [T, heads] the logarithm of the softmax's denominator.
void tree_attention_forward_cpu(const TreeAttention& job, float* out, float* lse);

// Gradients of sum(out * grad): dq [T, heads, head_dim], dk, dv [T, kv_heads, head_dim], all overwritten
// (FlashAttention-2, arXiv 2307.08691 algorithm 2).
void tree_attention_backward_cpu(const TreeAttention& job, const float* out, const float* lse, const float* grad,
                                 float* dq, float* dk, float* dv);

}  // namespace stepward::kernels
