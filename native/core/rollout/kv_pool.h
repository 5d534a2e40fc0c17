// Memory for keys and values in blocks of 32 tokens that hold every layer and KV head, under a budget of bytes.
// Hands out block numbers; what lies in them is for the decoder.
#pragma once

#include <cstdint>
#include <vector>

namespace stepward {

class KvPool {
 public:
  // At least one block is allowed whatever the budget.
  KvPool(int64_t block_bytes, int64_t budget_bytes);

  int64_t capacity() const { return capacity_; }
  int64_t in_use() const { return in_use_; }
  int64_t available() const { return capacity_ - in_use_; }
  int64_t block_bytes() const { return block_bytes_; }
  int64_t peak_blocks() const { return peak_; }
  void reset_peak() { peak_ = in_use_; }

  // Blocks that were ever handed out, and free ones among them.
  int64_t touched() const { return unused_; }
  int64_t returned() const { return static_cast<int64_t>(free_.size()); }

  // A returned block, else the lowest number never handed out. There must be one available.
  int32_t take();
  void give_back(int32_t block);

 private:
  int64_t block_bytes_, capacity_, in_use_ = 0, peak_ = 0;
  int32_t unused_ = 0;         // numbers from here on were never handed out
  std::vector<int32_t> free_;  // given back
};

}  // namespace stepward
