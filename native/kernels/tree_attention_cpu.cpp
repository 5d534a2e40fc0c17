// Keys and values are laid out once per KV head in blocks of 32 tokens, as panels (for scores) and as rows (for sums).
// Work is shared out in pieces that never write to the same place, so that results do not depend on the threads.
#include "exact_float.h"

#include "tree_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"
#include "panels.h"

namespace stepward::kernels {

struct TreeAttentionRowOps {
  float (*max_row)(const float* s, int64_t n);
  float (*exp_row)(float* s, int64_t n, float base);
  void (*score_gradient)(const float* p, float delta, int64_t n, float* dp);
};

}  // namespace stepward::kernels

#define STEPWARD_BODY "tree_attention_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

const std::vector<const TreeAttentionRowOps*> kVariants = STEPWARD_VARIANTS(TreeAttentionRowOps);

const TreeAttentionRowOps& row_functions() {
  return variant_of(kVariants, isa());
}

// Rows (a query of a head each) that meet the keys together: few in the forward pass, where their scores for a whole
// path are kept; more in the backward pass, where sums over them are made. Multiples of the products' row tiles.
constexpr int64_t kForwardRows = 24, kBackwardRows = 96;
// Blocks of keys that a backward step takes at once.
constexpr int64_t kBackwardBlocks = 8;

int64_t blocks_of(int64_t tokens) {
  return (tokens + kKeyBlock - 1) / kKeyBlock;
}

// Calls work(i) for i in [0, count), each by whichever of the threads is free.
template <typename Work>
void share_out(int threads, int64_t count, const Work& work) {
  if (count == 1) return work(0);
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
}

// Keys or values of every KV head in blocks.
class Blocks {
 public:
  enum class Form { panels, rows };  // [head_dim, 32] or [32, width] a block

  Blocks(const TreeAttention& job, const float* source, Form form)
      : blocks_(job.plan->num_blocks()),
        size_(form == Form::panels ? job.head_dim * kKeyBlock : width_of(job) * kKeyBlock),
        data_(static_cast<size_t>(job.kv_heads * blocks_ * size_), 0.0f) {
    const int64_t dim = job.head_dim, width = width_of(job);
    share_out(job.threads, static_cast<int64_t>(job.plan->runs.size()) * job.kv_heads, [&](int64_t item) {
      const AttentionRun& run = job.plan->runs[item / job.kv_heads];
      const int64_t head = item % job.kv_heads;
      float* to = data_.data() + (head * blocks_ + run.first_block) * size_;
      for (int64_t t = 0; t < run.tokens; ++t) {
        const float* from = source + ((run.first_token + t) * job.kv_heads + head) * dim;
        if (form == Form::rows) {
          std::copy_n(from, dim, to + t * width);
        } else {
          float* panel = to + t / kKeyBlock * size_ + t % kKeyBlock;
          for (int64_t d = 0; d < dim; ++d) panel[d * kKeyBlock] = from[d];
        }
      }
    });
  }

  static int64_t width_of(const TreeAttention& job) { return (job.head_dim + kPanel - 1) / kPanel * kPanel; }
  const float* at(int64_t kv_head, int64_t block) const { return data_.data() + (kv_head * blocks_ + block) * size_; }

 private:
  int64_t blocks_, size_;
  std::vector<float> data_;
};

// Consecutive blocks of one run, of which the first `tokens` tokens can be seen at all.
struct KeySpan {
  int64_t block, blocks, tokens;
  int64_t position;  // of its first token
  int64_t own;       // index of its first token in the queries' own run, or -1: another run
};

// Queries [first, end) of a run against all keys on their path.
struct Tile {
  const AttentionRun* run;
  int64_t first, end;
};

std::vector<Tile> tiles_of(const AttentionPlan& plan, int64_t run_begin, int64_t run_end, int64_t tokens) {
  std::vector<Tile> tiles;
  for (int64_t r = run_begin; r < run_end; ++r) {
    const AttentionRun& run = plan.runs[r];
    for (int64_t t = 0; t < run.tokens; t += tokens)
      tiles.push_back({&run, t, std::min<int64_t>(run.tokens, t + tokens)});
  }
  return tiles;
}

// What a tile sees, in pieces of at most `most` blocks; blocks that lie wholly before its window are left out.
std::vector<KeySpan> spans_of(const TreeAttention& job, const Tile& tile, int64_t most) {
  const AttentionPlan& plan = *job.plan;
  std::vector<KeySpan> spans;
  const int64_t oldest = job.window > 0 ? tile.run->position + tile.first - job.window + 1 : 0;
  const auto add = [&](const AttentionRun& run, int64_t tokens, bool own) {
    const int64_t skipped = std::clamp<int64_t>(oldest - run.position, 0, tokens) / kKeyBlock;
    for (int64_t b = skipped; b < blocks_of(tokens); b += most) {
      const int64_t count = std::min(most, blocks_of(tokens) - b);
      spans.push_back({run.first_block + b, count, std::min(count * kKeyBlock, tokens - b * kKeyBlock),
                       run.position + b * kKeyBlock, own ? b * kKeyBlock : -1});
    }
  };
  for (int32_t i = tile.run->path_begin; i < tile.run->path_end; ++i)
    add(plan.runs[plan.path[i].run], plan.path[i].tokens, false);
  add(*tile.run, tile.end, true);
  return spans;
}

// Sets the scores [span.blocks * 32] of query `index` of the run to -inf where it must not look.
void hide(const TreeAttention& job, const Tile& tile, const KeySpan& span, int64_t index, float* scores) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  const int64_t end = span.own < 0 ? span.tokens : std::min(span.tokens, index - span.own + 1);
  for (int64_t i = std::max<int64_t>(end, 0); i < span.blocks * kKeyBlock; ++i) scores[i] = kHidden;
  if (job.window <= 0) return;
  const int64_t oldest = tile.run->position + index - job.window + 1 - span.position;
  for (int64_t i = 0; i < std::min(oldest, span.blocks * kKeyBlock); ++i) scores[i] = kHidden;
}

// The rows of a tile for one KV head: row r is query first + r / group, head kv_head * group + r % group.
class TileRows {
 public:
  TileRows(const TreeAttention& job, const Tile& tile, int64_t kv_head)
      : job_(job), tile_(tile), group_(job.heads / job.kv_heads), first_head_(kv_head * group_) {}

  int64_t count() const { return (tile_.end - tile_.first) * group_; }
  int64_t query(int64_t r) const { return tile_.first + r / group_; }
  // Of [T, heads].
  int64_t at(int64_t r) const { return (tile_.run->first_token + query(r)) * job_.heads + first_head_ + r % group_; }
  // Rows of source [T, heads, head_dim] times `scale` -> to [rows, stride]; the columns beyond head_dim are left alone.
  void gather(const float* source, float scale, int64_t stride, float* to) const {
    for (int64_t r = 0; r < count(); ++r) {
      const float* from = source + at(r) * job_.head_dim;
      for (int64_t d = 0; d < job_.head_dim; ++d) to[r * stride + d] = from[d] * scale;
    }
  }

 private:
  const TreeAttention& job_;
  const Tile& tile_;
  const int64_t group_, first_head_;
};

float* reserve(std::vector<float>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
  return buffer.data();
}

void forward_tile(const TreeAttention& job, const Blocks& keys, const Blocks& values, const Tile& tile, int64_t kv_head,
                  float* out, float* lse) {
  const PanelOps& products = panel_ops();
  const TreeAttentionRowOps& ops = row_functions();
  const int64_t dim = job.head_dim, width = Blocks::width_of(job);
  const TileRows rows(job, tile, kv_head);
  const std::vector<KeySpan> spans = spans_of(job, tile, std::numeric_limits<int32_t>::max());
  int64_t columns = 0;
  for (const KeySpan& span : spans) columns += span.blocks * kKeyBlock;
  thread_local std::vector<float> q_buffer, score_buffer, out_buffer;
  float* q = reserve(q_buffer, rows.count() * dim);
  float* scores = reserve(score_buffer, rows.count() * columns);
  float* sums = reserve(out_buffer, rows.count() * width);
  rows.gather(job.q, job.scale, dim, q);
  int64_t column = 0;
  for (const KeySpan& span : spans) {
    products.multiply(q, dim, rows.count(), keys.at(kv_head, span.block), kPanel, dim * kKeyBlock, span.blocks, dim,
                      scores + column, columns, PanelMode::store);
    for (int64_t r = 0; r < rows.count(); ++r) hide(job, tile, span, rows.query(r), scores + r * columns + column);
    column += span.blocks * kKeyBlock;
  }
  thread_local std::vector<float> denominator;
  denominator.resize(rows.count());
  for (int64_t r = 0; r < rows.count(); ++r) {
    float* row = scores + r * columns;
    const float max = ops.max_row(row, columns);
    denominator[r] = ops.exp_row(row, columns, max);
    lse[rows.at(r)] = max + std::log(denominator[r]);
  }
  column = 0;
  for (const KeySpan& span : spans) {
    products.multiply(scores + column, columns, rows.count(), values.at(kv_head, span.block), width, kPanel,
                      width / kPanel, span.blocks * kKeyBlock, sums, width,
                      column == 0 ? PanelMode::store : PanelMode::resume);
    column += span.blocks * kKeyBlock;
  }
  for (int64_t r = 0; r < rows.count(); ++r) {
    const float inverse = 1.0f / denominator[r];
    float* to = out + rows.at(r) * dim;
    for (int64_t d = 0; d < dim; ++d) to[d] = sums[r * width + d] * inverse;
  }
}

// The operands of the backward pass, see tree_attention_backward_cpu.
struct Backward {
  const TreeAttention& job;
  const float *out, *lse, *grad;
  const Blocks &keys, &key_rows, &values;  // panels, rows, panels
  float* dq;
};

// Adds a tile's share to dk and dv, rows of the tree's blocks.
void backward_tile(const Backward& b, const Tile& tile, int64_t kv_head, int64_t tree_block, float* dk, float* dv) {
  const PanelOps& products = panel_ops();
  const TreeAttentionRowOps& ops = row_functions();
  const TreeAttention& job = b.job;
  const int64_t dim = job.head_dim, width = Blocks::width_of(job), panels = width / kPanel;
  const TileRows rows(job, tile, kv_head);
  const int64_t count = rows.count();
  thread_local std::vector<float> buffer;
  constexpr int64_t kColumns = kBackwardBlocks * kKeyBlock;
  const int64_t row_values = count * width, scores = count * kColumns;
  float* q = reserve(buffer, 3 * row_values + 2 * scores + 2 * count);
  float *grad = q + row_values, *dq = grad + row_values, *p = dq + row_values, *dp = p + scores, *delta = dp + scores;
  std::fill_n(q, 3 * row_values, 0.0f);
  rows.gather(job.q, job.scale, width, q);
  rows.gather(b.grad, 1.0f, width, grad);
  for (int64_t r = 0; r < count; ++r) {
    const float* out = b.out + rows.at(r) * dim;
    float sum = 0.0f;
    for (int64_t d = 0; d < dim; ++d) sum += out[d] * grad[r * width + d];
    delta[r] = sum;
  }
  for (const KeySpan& span : spans_of(job, tile, kBackwardBlocks)) {
    const int64_t columns = span.blocks * kKeyBlock, at = (span.block - tree_block) * kKeyBlock * width;
    products.multiply(q, width, count, b.keys.at(kv_head, span.block), kPanel, dim * kKeyBlock, span.blocks, dim, p,
                      kColumns, PanelMode::store);
    products.multiply(grad, width, count, b.values.at(kv_head, span.block), kPanel, dim * kKeyBlock, span.blocks, dim,
                      dp, kColumns, PanelMode::store);
    for (int64_t r = 0; r < count; ++r) {
      hide(job, tile, span, rows.query(r), p + r * kColumns);
      ops.exp_row(p + r * kColumns, columns, b.lse[rows.at(r)]);
      ops.score_gradient(p + r * kColumns, delta[r], columns, dp + r * kColumns);
    }
    products.multiply_transposed(p, kColumns, columns, grad, width, kPanel, panels, count, dv + at, width,
                                 PanelMode::add);
    products.multiply_transposed(dp, kColumns, columns, q, width, kPanel, panels, count, dk + at, width,
                                 PanelMode::add);
    products.multiply(dp, kColumns, count, b.key_rows.at(kv_head, span.block), width, kPanel, panels, columns, dq,
                      width, PanelMode::add);
  }
  for (int64_t r = 0; r < count; ++r) {
    float* to = b.dq + rows.at(r) * dim;
    for (int64_t d = 0; d < dim; ++d) to[d] = dq[r * width + d] * job.scale;
  }
}

// Every second tile of a tree: two pieces, so that one large tree keeps more than one thread busy.
constexpr int64_t kPieces = 2;

}  // namespace

void tree_attention_forward_cpu(const TreeAttention& job, float* out, float* lse) {
  const Blocks keys(job, job.k, Blocks::Form::panels), values(job, job.v, Blocks::Form::rows);
  const int64_t at_once = std::max<int64_t>(1, kForwardRows / (job.heads / job.kv_heads));
  const std::vector<Tile> tiles = tiles_of(*job.plan, 0, static_cast<int64_t>(job.plan->runs.size()), at_once);
  share_out(job.threads, static_cast<int64_t>(tiles.size()) * job.kv_heads, [&](int64_t item) {
    forward_tile(job, keys, values, tiles[item / job.kv_heads], item % job.kv_heads, out, lse);
  });
}

void tree_attention_backward_cpu(const TreeAttention& job, const float* out, const float* lse, const float* grad,
                                 float* dq, float* dk, float* dv) {
  const AttentionPlan& plan = *job.plan;
  const Blocks keys(job, job.k, Blocks::Form::panels), key_rows(job, job.k, Blocks::Form::rows),
      values(job, job.v, Blocks::Form::panels);
  const Backward b{job, out, lse, grad, keys, key_rows, values, dq};
  const int64_t dim = job.head_dim, width = Blocks::width_of(job);
  const int64_t at_once = std::max<int64_t>(1, kBackwardRows / (job.heads / job.kv_heads));
  const int64_t pieces_of_head = plan.num_trees() * kPieces;
  // [kv_heads, trees, pieces, blocks of the tree, 32, width]: what each piece adds up.
  const int64_t head_values = kPieces * plan.num_blocks() * kKeyBlock * width;
  std::vector<float> key_sums(job.kv_heads * head_values, 0.0f), value_sums(job.kv_heads * head_values, 0.0f);
  const auto offset_of = [&](int64_t kv_head, int64_t tree, int64_t piece) {
    const int64_t blocks = plan.tree_block[tree + 1] - plan.tree_block[tree];
    return kv_head * head_values + (kPieces * plan.tree_block[tree] + piece * blocks) * kKeyBlock * width;
  };
  share_out(job.threads, pieces_of_head * job.kv_heads, [&](int64_t item) {
    const int64_t kv_head = item % job.kv_heads, piece = item / job.kv_heads % kPieces;
    const int64_t tree = item / job.kv_heads / kPieces, at = offset_of(kv_head, tree, piece);
    const std::vector<Tile> tiles = tiles_of(plan, plan.tree_run[tree], plan.tree_run[tree + 1], at_once);
    for (size_t t = piece; t < tiles.size(); t += kPieces)
      backward_tile(b, tiles[t], kv_head, plan.tree_block[tree], key_sums.data() + at, value_sums.data() + at);
  });
  share_out(job.threads, plan.num_trees() * job.kv_heads, [&](int64_t item) {
    const int64_t kv_head = item % job.kv_heads, tree = item / job.kv_heads;
    const int64_t first = offset_of(kv_head, tree, 0), second = offset_of(kv_head, tree, 1);
    for (int32_t r = plan.tree_run[tree]; r < plan.tree_run[tree + 1]; ++r) {
      const AttentionRun& run = plan.runs[r];
      for (int64_t t = 0; t < run.tokens; ++t) {
        const int64_t from = ((run.first_block - plan.tree_block[tree]) * kKeyBlock + t) * width;
        const int64_t to = ((run.first_token + t) * job.kv_heads + kv_head) * dim;
        for (int64_t d = 0; d < dim; ++d) {
          dk[to + d] = key_sums[first + from + d] + key_sums[second + from + d];
          dv[to + d] = value_sums[first + from + d] + value_sums[second + from + d];
        }
      }
    }
  });
}

}  // namespace stepward::kernels
