#include "core/rollout/segment_tree.h"

#include <algorithm>

#include "kernels/segment_attention.h"

namespace stepward {
namespace {

constexpr int64_t kBlock = kernels::kBlockTokens;

int64_t blocks_for(int64_t tokens) {
  return (tokens + kBlock - 1) / kBlock;
}

// Classes of segments in the order in which they lose their memory.
int eviction_class(const Segment& s) {
  if (s.tasks > 0) return 2;
  return s.holds > 0 ? 1 : 0;
}

}  // namespace

SegmentTree::SegmentTree(Decoder& decoder, int64_t budget_bytes)
    : decoder_(decoder), pool_(decoder.block_bytes(), budget_bytes) {}

SegmentTree::~SegmentTree() = default;

uint64_t SegmentTree::key_of(const Segment* parent, const std::vector<int32_t>& tokens) {
  uint64_t hash = reinterpret_cast<uintptr_t>(parent) * 0x9E3779B97F4A7C15ull;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001B3ull;
  return hash ^ (hash >> 29);
}

Segment* SegmentTree::make(Segment* parent) {
  auto owned = std::make_unique<Segment>();
  Segment* segment = owned.get();
  segment->parent = parent;
  if (parent != nullptr) {
    segment->start = parent->end();
    ++parent->children;
  }
  segments_.emplace(segment, std::move(owned));
  retain(segment);
  return segment;
}

Segment* SegmentTree::find(const Segment* parent, const std::vector<int32_t>& tokens) const {
  const auto [begin, end] = index_.equal_range(key_of(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    if (it->second->parent == parent && it->second->tokens == tokens) return it->second;
  }
  return nullptr;
}

Segment* SegmentTree::private_child(Segment* parent, const std::vector<int32_t>& tokens) {
  Segment* segment = make(parent);
  segment->tokens = tokens;
  return segment;
}

Segment* SegmentTree::open_child(Segment* parent) {
  Segment* segment = make(parent);
  segment->open = true;
  return segment;
}

void SegmentTree::close(Segment* segment) {
  segment->open = false;
  if (find(segment->parent, segment->tokens) != nullptr) return;
  segment->findable = true;
  index_.emplace(key_of(segment->parent, segment->tokens), segment);
}

void SegmentTree::retain(Segment* segment) {
  for (Segment* s = segment; s != nullptr; s = s->parent) ++s->holds;
}

void SegmentTree::release(Segment* segment) {
  for (Segment* s = segment; s != nullptr; s = s->parent) --s->holds;
  drop_if_idle(segment);
}

void SegmentTree::begin_task(Segment* segment) {
  for (Segment* s = segment; s != nullptr; s = s->parent) ++s->tasks;
}

void SegmentTree::end_task(Segment* segment) {
  for (Segment* s = segment; s != nullptr; s = s->parent) --s->tasks;
  drop_if_idle(segment);
}

void SegmentTree::drop_memory(Segment* segment) {
  for (const int32_t block : segment->blocks) pool_.give_back(block);
  segment->blocks.clear();
  segment->computed = 0;
  if (segment->hidden >= 0) decoder_.free_hidden(segment->hidden);
  segment->hidden = -1;
}

void SegmentTree::drop_if_idle(Segment* segment) {
  while (segment != nullptr && !segment->referenced()) {
    // Worth keeping where a look-up may find it again with something computed.
    if (segment->findable && segment->computed > 0) return;
    Segment* parent = segment->parent;
    drop_memory(segment);
    if (segment->findable) {
      const auto [begin, end] = index_.equal_range(key_of(parent, segment->tokens));
      for (auto it = begin; it != end; ++it) {
        if (it->second == segment) {
          index_.erase(it);
          break;
        }
      }
    }
    segments_.erase(segment);
    if (parent != nullptr) --parent->children;
    segment = parent;
  }
}

bool SegmentTree::reserve(Segment* segment, int64_t to) {
  const int64_t more = blocks_for(to) - static_cast<int64_t>(segment->blocks.size());
  if (more <= 0) return true;
  if (pool_.returned() < more) recycle();
  if (pool_.available() < more && !make_room(more)) return false;
  for (int64_t i = 0; i < more; ++i) segment->blocks.push_back(pool_.take());
  return true;
}

void SegmentTree::trim(Segment* segment) {
  while (static_cast<int64_t>(segment->blocks.size()) > blocks_for(segment->length())) {
    pool_.give_back(segment->blocks.back());
    segment->blocks.pop_back();
  }
}

int64_t SegmentTree::blocks_missing(const Segment& segment, int64_t more) {
  return std::max<int64_t>(0, blocks_for(segment.length() + more) - static_cast<int64_t>(segment.blocks.size()));
}

bool SegmentTree::could_spare(int64_t blocks) const {
  int64_t spare = pool_.available();
  if (spare >= blocks) return true;
  for (const auto& [segment, owned] : segments_) {
    if (segment->pins == 0 && segment->tasks == 0) spare += static_cast<int64_t>(segment->blocks.size());
  }
  return spare >= blocks;
}

std::vector<Segment*> SegmentTree::losers(int highest_class, int64_t* blocks) const {
  std::vector<Segment*> found;
  *blocks = 0;
  for (const auto& [segment, owned] : segments_) {
    if (segment->pins > 0 || segment->blocks.empty() || eviction_class(*segment) > highest_class) continue;
    found.push_back(segment);
    *blocks += static_cast<int64_t>(segment->blocks.size());
  }
  // Of equally old ones the deeper goes first: what lies below a segment is of no use without it.
  std::sort(found.begin(), found.end(), [](const Segment* a, const Segment* b) {
    const int ca = eviction_class(*a), cb = eviction_class(*b);
    if (ca != cb) return ca < cb;
    if (a->used != b->used) return a->used < b->used;
    if (a->start != b->start) return a->start > b->start;
    return a->blocks.front() < b->blocks.front();
  });
  return found;
}

// The first touch of memory costs more than computing a token's keys and values saves, unless much is asked for again.
void SegmentTree::recycle() {
  if (pool_.touched() < recycle_from_) return;
  int64_t idle = 0;
  const std::vector<Segment*> oldest = losers(0, &idle);
  const int64_t allowed = std::max(pool_.touched() / 4, pool_.capacity() / 64);
  if (idle <= allowed) {
    recycle_from_ = pool_.touched() + allowed - idle + 1;
    return;
  }
  for (Segment* segment : oldest) {
    if (idle <= allowed / 2) break;
    if (!segments_.contains(segment)) continue;
    idle -= static_cast<int64_t>(segment->blocks.size());
    drop_memory(segment);
    drop_if_idle(segment);
  }
}

bool SegmentTree::make_room(int64_t blocks) {
  int64_t spare = 0;
  const std::vector<Segment*> candidates = losers(2, &spare);
  if (pool_.available() + spare < blocks) return false;
  // While at it some more of what nobody holds, so that a full pool does not mean a search through it for every block.
  const int64_t enough = std::max(blocks, pool_.capacity() / 16);
  for (Segment* segment : candidates) {
    if (pool_.available() >= enough) break;
    if (!segments_.contains(segment)) continue;  // gone with the last one below it
    if (pool_.available() >= blocks && eviction_class(*segment) > 0) break;
    if (eviction_class(*segment) > 0) evicted_tokens_ += segment->computed;
    drop_memory(segment);
    drop_if_idle(segment);
  }
  return pool_.available() >= blocks;
}

void SegmentTree::invalidate() {
  std::vector<Segment*> all;
  for (const auto& [segment, owned] : segments_) {
    drop_memory(segment);
    if (segment->children == 0) all.push_back(segment);
  }
  for (Segment* segment : all) drop_if_idle(segment);
}

void SegmentTree::drop_cache() {
  std::vector<Segment*> idle;
  for (const auto& [segment, owned] : segments_) {
    if (segment->holds == 0 && segment->tasks == 0) idle.push_back(segment);
  }
  for (Segment* segment : idle) {
    if (!segments_.contains(segment)) continue;
    drop_memory(segment);
    drop_if_idle(segment);
  }
}

void SegmentTree::sweep(const std::vector<Segment*>& segments) {
  for (Segment* segment : segments) {
    if (segments_.contains(segment)) drop_if_idle(segment);
  }
}

int64_t SegmentTree::live() const {
  return std::count_if(segments_.begin(), segments_.end(),
                       [](const auto& entry) { return entry.first->holds > 0 || entry.first->tasks > 0; });
}

}  // namespace stepward
