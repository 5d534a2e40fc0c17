#include "core/rollout/kv_pool.h"

#include <algorithm>
#include <limits>

namespace stepward {

KvPool::KvPool(int64_t block_bytes, int64_t budget_bytes)
    : block_bytes_(block_bytes),
      capacity_(std::clamp<int64_t>(budget_bytes / block_bytes, 1, std::numeric_limits<int32_t>::max())) {}

int32_t KvPool::take() {
  peak_ = std::max(peak_, ++in_use_);
  if (free_.empty()) return unused_++;
  const int32_t block = free_.back();
  free_.pop_back();
  return block;
}

void KvPool::give_back(int32_t block) {
  --in_use_;
  free_.push_back(block);
}

}  // namespace stepward
