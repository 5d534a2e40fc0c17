#include "core/train/tensor_memory.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <unordered_map>
#include <utility>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "core/huge_pages.h"

namespace stepward {
namespace {

constexpr size_t kLeast = size_t{256} << 10, kRound = size_t{64} << 10;

// Mapped memory that nobody uses. Neighbours are one range, whatever calls mapped them.
class FreeRanges {
 public:
  void add(char* begin, size_t bytes) {
    bytes_ += bytes;
    auto next = by_address_.lower_bound(begin);
    if (next != by_address_.end() && begin + bytes == next->first) {
      bytes += next->second;
      next = forget(next);
    }
    if (next != by_address_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) {
        begin = before->first;
        bytes += before->second;
        forget(before);
      }
    }
    remember(begin, bytes);
  }

  // The start of the smallest range that has room; null where none has.
  char* take(size_t bytes) {
    const auto found = by_size_.lower_bound({bytes, nullptr});
    if (found == by_size_.end()) return nullptr;
    const auto [whole, begin] = *found;
    forget(by_address_.find(begin));
    if (whole > bytes) remember(begin + bytes, whole - bytes);
    bytes_ -= bytes;
    return begin;
  }

  // Unmaps until at most `most` bytes are left: small ranges first, which are of the least use.
  void shrink(size_t most) {
    while (bytes_ > most) {
      const auto [whole, begin] = *by_size_.begin();
      const size_t gone = std::min(whole, (bytes_ - most + kRound - 1) / kRound * kRound);
      forget(by_address_.find(begin));
      munmap(begin, gone);
      if (whole > gone) remember(begin + gone, whole - gone);
      bytes_ -= gone;
    }
  }

 private:
  using ByAddress = std::map<char*, size_t>;

  void remember(char* begin, size_t bytes) {
    by_address_.emplace(begin, bytes);
    by_size_.emplace(bytes, begin);
  }
  ByAddress::iterator forget(ByAddress::iterator range) {
    by_size_.erase({range->second, range->first});
    return by_address_.erase(range);
  }

  size_t bytes_ = 0;
  ByAddress by_address_;
  std::set<std::pair<size_t, char*>> by_size_;
};

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
    peak_ = in_use_;
    before_ = c10::GetCPUAllocator();
    c10::SetCPUAllocator(this);
  }
  void end() {
    const std::lock_guard lock(mutex_);
    if (--users_ > 0) return;
    c10::SetCPUAllocator(before_);
    free_.shrink(0);
  }

 private:
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t needed = in_use_ + bytes, peak = std::max(peak_, needed);
    char* block = free_.take(bytes);
    if (block == nullptr) {
      // Without some room, ranges that are too small would be unmapped and mapped again all the time.
      free_.shrink(peak + peak / 32 - needed);
      block = map(bytes);
    }
    used_.emplace(block, bytes);
    in_use_ = needed;
    peak_ = peak;
    return block;
  }

  char* map(size_t bytes) {
    try {
      return static_cast<char*>(map_huge_pages(bytes));
    } catch (const std::bad_alloc&) {
      free_.shrink(0);
      return static_cast<char*>(map_huge_pages(bytes));
    }
  }

  void give_back(void* block) {
    const std::lock_guard lock(mutex_);
    const auto it = used_.find(block);
    const size_t bytes = it->second;
    used_.erase(it);
    in_use_ -= bytes;
    if (users_ == 0) {
      munmap(block, bytes);
    } else {
      free_.add(static_cast<char*>(block), bytes);
    }
  }

  std::mutex mutex_;
  int users_ = 0;
  c10::Allocator* before_ = nullptr;
  size_t in_use_ = 0, peak_ = 0;
  std::unordered_map<void*, size_t> used_;
  FreeRanges free_;
};

}  // namespace

TensorMemory::TensorMemory() {
  KeepingAllocator::instance().begin();
}

TensorMemory::~TensorMemory() {
  KeepingAllocator::instance().end();
}

}  // namespace stepward
