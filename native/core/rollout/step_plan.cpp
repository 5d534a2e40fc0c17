#include "core/rollout/step_plan.h"

#include <algorithm>

#include "kernels/segment_attention.h"

namespace stepward {
namespace {

using kernels::kBlockTokens;
using kernels::kChunkTokens;

struct Entry {
  int32_t row, part, last;
  int32_t position;     // of the row
  int32_t chunk_start;  // position of the chunk's first token
};

struct Item {
  const Segment* segment;
  int64_t chunk;
  std::vector<Entry> entries;
};

int64_t chunks_of(int64_t tokens) {
  return (tokens + kChunkTokens - 1) / kChunkTokens;
}

class Planner {
 public:
  explicit Planner(StepPlan& plan) : plan_(plan) {}

  void add(const StepSpan& span) {
    const std::vector<Segment*> path = path_of(span.segment);
    for (int64_t i = span.from; i < span.to; ++i) {
      if (span.scored || i + 1 >= span.segment->length()) plan_.kept.push_back(static_cast<int32_t>(plan_.num_rows()));
      add_row(span, path, i);
    }
    for (Segment* segment : path) touched_.push_back(segment);
  }

  std::vector<Item> finish() {
    for (Segment* segment : touched_) segment->first_item = -1;
    return std::move(items_);
  }

 private:
  void add_row(const StepSpan& span, const std::vector<Segment*>& path, int64_t i) {
    const Segment& own = *span.segment;
    const int32_t row = static_cast<int32_t>(plan_.num_rows()), position = static_cast<int32_t>(own.start + i);
    plan_.tokens.push_back(i < own.length() ? own.tokens[i] : 0);
    plan_.positions.push_back(position);
    plan_.slots.push_back(static_cast<int64_t>(own.blocks[i / kBlockTokens]) * kBlockTokens + i % kBlockTokens);
    int32_t part = plan_.part_offsets.back();
    for (Segment* segment : path) {
      const int64_t seen = segment == span.segment ? i + 1 : segment->length();
      if (segment->first_item < 0) {
        // Room for all chunks that any row of this step may see.
        segment->first_item = static_cast<int32_t>(items_.size());
        const int64_t reach = segment == span.segment ? span.to : segment->length();
        for (int64_t c = 0; c < chunks_of(reach); ++c) items_.push_back({segment, c, {}});
      }
      for (int64_t c = 0; c * kChunkTokens < seen; ++c) {
        const int32_t last = static_cast<int32_t>(std::min(kChunkTokens, seen - c * kChunkTokens));
        const int32_t start = static_cast<int32_t>(segment->start + c * kChunkTokens);
        items_[segment->first_item + c].entries.push_back({row, part++, last, position, start});
      }
    }
    plan_.part_offsets.push_back(part);
  }

  StepPlan& plan_;
  std::vector<Item> items_;
  std::vector<Segment*> touched_;
};

// The item cut where its rows go from one segment to the next.
void cut(const Item& item, const std::vector<int32_t>& span_of_row, std::vector<Item>& out) {
  for (const Entry& entry : item.entries) {
    const bool same = !out.empty() && out.back().segment == item.segment && out.back().chunk == item.chunk &&
                      span_of_row[out.back().entries.back().row] == span_of_row[entry.row];
    if (!same) out.push_back({item.segment, item.chunk, {}});
    out.back().entries.push_back(entry);
  }
}

}  // namespace

StepPlan plan_step(const std::vector<StepSpan>& spans, int64_t least_shared, const std::vector<int64_t>& windows) {
  StepPlan plan;
  Planner planner(plan);
  std::vector<int32_t> span_of_row;
  for (size_t s = 0; s < spans.size(); ++s) {
    planner.add(spans[s]);
    span_of_row.resize(plan.num_rows(), static_cast<int32_t>(s));
  }
  std::vector<Item> items;
  for (Item& item : planner.finish()) {
    if (static_cast<int64_t>(item.entries.size()) >= least_shared) {
      items.push_back(std::move(item));
    } else {
      cut(item, span_of_row, items);
    }
  }
  // Long items first: the last one to be taken should be short.
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.entries.size() > b.entries.size(); });
  for (const int64_t window : windows) plan.entries.first[window];
  for (const Item& item : items) {
    if (item.entries.empty()) continue;
    int64_t reach = 0;
    for (const Entry& entry : item.entries) {
      plan.entries.rows.push_back(entry.row);
      plan.entries.parts.push_back(entry.part);
      plan.entries.last.push_back(entry.last);
      reach = std::max<int64_t>(reach, entry.last);
      for (auto& [window, first] : plan.entries.first) {
        // A window of w tokens reaches back to position - w + 1.
        const int64_t oldest = window > 0 ? entry.position - window + 1 - entry.chunk_start : 0;
        first.push_back(static_cast<int32_t>(std::clamp<int64_t>(oldest, 0, entry.last)));
      }
    }
    const int64_t first_block = item.chunk * (kChunkTokens / kBlockTokens);
    for (int64_t b = 0; b * kBlockTokens < reach; ++b) plan.blocks.push_back(item.segment->blocks[first_block + b]);
    plan.entries.offsets.push_back(static_cast<int32_t>(plan.num_entries()));
    plan.block_offsets.push_back(static_cast<int32_t>(plan.blocks.size()));
  }
  return plan;
}

AttentionEntries entries_of_kept(const StepPlan& plan) {
  std::vector<bool> kept(plan.num_rows(), false);
  for (const int32_t row : plan.kept) kept[row] = true;
  const AttentionEntries& all = plan.entries;
  AttentionEntries some;
  for (int64_t i = 0; i < plan.num_items(); ++i) {
    for (int32_t e = all.offsets[i]; e < all.offsets[i + 1]; ++e) {
      if (!kept[all.rows[e]]) continue;
      some.rows.push_back(all.rows[e]);
      some.parts.push_back(all.parts[e]);
      some.last.push_back(all.last[e]);
      for (const auto& [window, first] : all.first) some.first[window].push_back(first[e]);
    }
    some.offsets.push_back(static_cast<int32_t>(some.rows.size()));
  }
  for (const auto& [window, first] : all.first) some.first[window];
  return some;
}

}  // namespace stepward
