// The segments of the rollout engine and their memory: look-up of segments that are there already, blocks for new tokens,
// and whose keys and values go when the budget is spent. Segments may lose theirs at any time outside a step; their tokens
// stay as long as somebody needs them, so that nothing is lost but time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/rollout/decoder.h"
#include "core/rollout/kv_pool.h"
#include "core/rollout/segment.h"

namespace stepward {

class SegmentTree {
 public:
  SegmentTree(Decoder& decoder, int64_t budget_bytes);
  ~SegmentTree();

  // The closed segment with these tokens after `parent` (null: a root), or null where there is none. Equal tokens after
  // the same parent are the same segment, so that its keys and values are reused.
  Segment* find(const Segment* parent, const std::vector<int32_t>& tokens) const;
  // A segment with these tokens, at least one, that find() does not know, with a handle.
  Segment* private_child(Segment* parent, const std::vector<int32_t>& tokens);
  // An open segment without tokens, with a handle.
  Segment* open_child(Segment* parent);
  // The segment will not grow any more: from now on find() knows it, unless there is an equal one.
  void close(Segment* segment);

  void retain(Segment* segment);
  void release(Segment* segment);

  // A request in flight goes through the segment and all above it.
  void begin_task(Segment* segment);
  void end_task(Segment* segment);

  // Blocks for the tokens [0, to) of a segment, taking them from others where the pool is empty: first from what nobody
  // holds, then from what is only held, then from what requests in flight will need; the longest unused first, what is
  // pinned never. False where that is not enough; then nothing has changed for `segment`.
  bool reserve(Segment* segment, int64_t to);
  // Gives back blocks past the segment's last token.
  void trim(Segment* segment);
  // Blocks that `more` tokens past its end would take.
  static int64_t blocks_missing(const Segment& segment, int64_t more);
  // Whether `blocks` are free or held by segments that no request in flight needs.
  bool could_spare(int64_t blocks) const;

  // Keys and values were made by weights that are gone: drops all of them.
  void invalidate();
  // Drops what nobody holds.
  void drop_cache();
  // After a step: frees those of its segments that nothing but the step had kept.
  void sweep(const std::vector<Segment*>& segments);

  void touch(Segment* segment, uint64_t step) { segment->used = step; }
  const KvPool& pool() const { return pool_; }
  // Segments that somebody holds, and those kept only because they may be asked for again.
  int64_t live() const;
  int64_t cached() const { return static_cast<int64_t>(segments_.size()) - live(); }
  int64_t evicted_tokens() const { return evicted_tokens_; }
  void reset_counters() {
    evicted_tokens_ = 0;
    pool_.reset_peak();
  }

 private:
  Segment* make(Segment* parent);
  void drop_memory(Segment* segment);
  // Frees a segment that nobody needs, and its parents as far as they too are not needed any more.
  void drop_if_idle(Segment* segment);
  bool make_room(int64_t blocks);
  // Segments outside the step that hold blocks, those that lose them first in front; their blocks in all.
  std::vector<Segment*> losers(int highest_class, int64_t* blocks) const;
  // Before memory that was never used is taken: has the oldest of what nobody holds make way where that is much.
  void recycle();
  static uint64_t key_of(const Segment* parent, const std::vector<int32_t>& tokens);

  Decoder& decoder_;
  KvPool pool_;
  std::unordered_map<Segment*, std::unique_ptr<Segment>> segments_;
  std::unordered_multimap<uint64_t, Segment*> index_;  // by parent and tokens
  int64_t evicted_tokens_ = 0;
  int64_t recycle_from_ = 0;  // blocks ever used at which to look again
};

}  // namespace stepward
