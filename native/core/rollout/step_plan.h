// One step of the rollout engine as the decoder runs it: rows (a token each, prompt or sampled), where their keys and
// values go, and which chunks of which segments they attend to.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/rollout/segment.h"

namespace stepward {

struct StepPlan {
  // Rows, those of a segment side by side and in order.
  std::vector<int32_t> tokens, positions;  // [rows]
  std::vector<int64_t> slots;              // [rows] block * 32 + offset

  // Attention items: a chunk of at most 256 tokens and the rows that see some of it. Item i has the entries
  // [entry_offsets[i], entry_offsets[i + 1]) and the pool blocks [block_offsets[i], block_offsets[i + 1]).
  std::vector<int32_t> entry_offsets{0}, block_offsets{0};  // [items + 1]
  std::vector<int32_t> blocks;
  std::vector<int32_t> rows, parts, last;  // [entries] see kernels/segment_attention.h
  // First visible token per entry, by the window of the layer (0: full attention).
  std::map<int64_t, std::vector<int32_t>> first;  // [entries] each
  // Row r's results are the parts [part_offsets[r], part_offsets[r + 1]), in path order.
  std::vector<int32_t> part_offsets{0};  // [rows + 1]

  int64_t num_rows() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_items() const { return static_cast<int64_t>(entry_offsets.size()) - 1; }
  int64_t num_entries() const { return static_cast<int64_t>(rows.size()); }
};

// Tokens [from, to) of a segment, to be computed in a step.
struct StepSpan {
  Segment* segment;
  int64_t from, to;
};

// Every segment's blocks must reach to the end of its span, and what lies above a span must be computed or be a span
// before it. A chunk that at least `least_shared` rows see is one item for all of them; else one for each segment's rows.
// `windows`: the distinct sliding windows of the model's layers.
StepPlan plan_step(const std::vector<StepSpan>& spans, int64_t least_shared, const std::vector<int64_t>& windows);

}  // namespace stepward
