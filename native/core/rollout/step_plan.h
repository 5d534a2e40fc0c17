// One step of the rollout engine as the decoder runs it: rows (a token each, prompt or sampled), where their keys and
// values go, and which chunks of which segments they attend to.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/rollout/segment.h"

namespace stepward {

// Which rows see which chunks. Item i, a chunk of at most 256 tokens and rows that see some of it, has the entries
// [offsets[i], offsets[i + 1]).
struct AttentionEntries {
  std::vector<int32_t> offsets{0};         // [items + 1]
  std::vector<int32_t> rows, parts, last;  // [entries] see kernels/segment_attention.h
  // First visible token per entry, by the window of the layer (0: full attention).
  std::map<int64_t, std::vector<int32_t>> first;  // [entries] each
};

struct StepPlan {
  // Rows, those of a segment side by side and in order.
  std::vector<int32_t> tokens, positions;  // [rows]
  std::vector<int64_t> slots;              // [rows] block * 32 + offset

  // Attention: item i's chunk lies in the pool blocks [block_offsets[i], block_offsets[i + 1]).
  AttentionEntries entries;
  std::vector<int32_t> block_offsets{0};  // [items + 1]
  std::vector<int32_t> blocks;
  // Row r's results are the parts [part_offsets[r], part_offsets[r + 1]), in path order.
  std::vector<int32_t> part_offsets{0};  // [rows + 1]
  // Rows whose hidden states are read after the step, ascending: the last layer need compute no others.
  std::vector<int32_t> kept;

  int64_t num_rows() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_items() const { return static_cast<int64_t>(block_offsets.size()) - 1; }
  int64_t num_entries() const { return static_cast<int64_t>(entries.rows.size()); }
};

// Tokens [from, to) of a segment, to be computed in a step. In a DecodeRun they may lie past its end: not drawn yet, and 0 in
// the plan.
struct StepSpan {
  Segment* segment;
  int64_t from, to;
  bool scored = false;  // all hidden states are kept, not just that of the segment's last token
};

// Every segment's blocks must reach to the end of its span, and what lies above a span must be computed or be a span
// before it. A chunk that at least `least_shared` rows see is one item for all of them; else one for each segment's rows.
// `windows`: the distinct sliding windows of the model's layers.
StepPlan plan_step(const std::vector<StepSpan>& spans, int64_t least_shared, const std::vector<int64_t>& windows);

// The plan's entries of rows that it keeps, item by item.
AttentionEntries entries_of_kept(const StepPlan& plan);

}  // namespace stepward
