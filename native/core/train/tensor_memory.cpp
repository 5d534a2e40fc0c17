#include "core/train/tensor_memory.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "core/huge_pages.h"

namespace stepward {
namespace {

constexpr size_t kLeast = size_t{1} << 20, kRound = size_t{64} << 10;

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLeast) return c10::GetDefaultCPUAllocator()->allocate(bytes);
    void* block = take((bytes + kRound - 1) / kRound * kRound);
    return {block, block, [](void* freed) { instance().give_back(freed); }, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  // Never destroyed: tensors may be freed after everything else.
  static KeepingAllocator& instance() {
    static auto* allocator = new KeepingAllocator;
    return *allocator;
  }

  void begin() {
    const std::lock_guard lock(mutex_);
    if (users_++ > 0) return;
    before_ = c10::GetCPUAllocator();
    c10::SetCPUAllocator(this);
  }
  void end() {
    const std::lock_guard lock(mutex_);
    if (--users_ > 0) return;
    c10::SetCPUAllocator(before_);
    shrink(0);
    peak_ = in_use_;
  }

 private:
  struct Free {
    void* block;
    size_t bytes;
  };
  using Order = std::list<Free>;  // longest unused first

  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    // A block that is at most an eighth too large will do; it then counts as what it is.
    if (const auto it = free_.lower_bound(bytes); it != free_.end() && it->first <= bytes + bytes / 8) {
      const Free found = *it->second;
      kept_ -= found.bytes;
      order_.erase(it->second);
      free_.erase(it);
      return use(found.block, found.bytes);
    }
    // Without some room sizes that do not fit each other push each other out.
    const size_t needed = in_use_ + bytes, peak = std::max(peak_, needed);
    shrink(peak - needed + peak / 32);
    return use(map_huge_pages(bytes), bytes);
  }

  void* use(void* block, size_t bytes) {
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
    used_.emplace(block, bytes);
    return block;
  }

  void give_back(void* block) {
    const std::lock_guard lock(mutex_);
    const auto it = used_.find(block);
    const size_t bytes = it->second;
    used_.erase(it);
    in_use_ -= bytes;
    if (users_ == 0) {
      munmap(block, bytes);
      return;
    }
    kept_ += bytes;
    order_.push_back({block, bytes});
    free_.emplace(bytes, std::prev(order_.end()));
  }

  // Unmaps the longest unused blocks until at most `most` bytes are kept.
  void shrink(size_t most) {
    while (kept_ > most) {
      const Free oldest = order_.front();
      const auto [first, last] = free_.equal_range(oldest.bytes);
      free_.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second == order_.begin(); }));
      order_.pop_front();
      kept_ -= oldest.bytes;
      munmap(oldest.block, oldest.bytes);
    }
  }

  std::mutex mutex_;
  int users_ = 0;
  c10::Allocator* before_ = nullptr;
  size_t in_use_ = 0, peak_ = 0, kept_ = 0;
  std::unordered_map<void*, size_t> used_;
  Order order_;
  std::multimap<size_t, Order::iterator> free_;
};

}  // namespace

TensorMemory::TensorMemory() {
  KeepingAllocator::instance().begin();
}

TensorMemory::~TensorMemory() {
  KeepingAllocator::instance().end();
}

}  // namespace stepward
