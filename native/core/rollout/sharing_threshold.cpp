#include "core/rollout/sharing_threshold.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/panels.h"
#include "kernels/segment_attention.h"

namespace stepward {
namespace {

using kernels::kBlockTokens;
using kernels::kChunkTokens;

constexpr int64_t kMostRows = 16;

class Probe {
 public:
  Probe(int64_t head_dim, int64_t group, bool bf16) : head_dim_(head_dim), group_(group), bf16_(bf16) {
    const int64_t blocks = kChunkTokens / kBlockTokens, size = kernels::head_block_elements(head_dim);
    if (bf16) {
      narrow_memory_.assign(blocks * size, kernels::to_bf16(0.01f));
      for (int64_t b = 0; b < blocks; ++b) narrow_heads_.push_back(narrow_memory_.data() + b * size);
    } else {
      memory_.assign(blocks * size, 0.01f);
      for (int64_t b = 0; b < blocks; ++b) heads_.push_back(memory_.data() + b * size);
    }
    q_.assign(kMostRows * group * head_dim, 0.01f);
    ids_.resize(kMostRows);
    std::iota(ids_.begin(), ids_.end(), 0);
    first_.assign(kMostRows, 0);
    last_.assign(kMostRows, static_cast<int32_t>(kChunkTokens));
    out_.resize(kMostRows * group * kernels::value_width(head_dim));
    max_.resize(kMostRows * group);
    sum_.resize(kMostRows * group);
  }

  // Seconds for `rows` rows in items of `at_once`, the best of three.
  double time(int64_t rows, int64_t at_once) {
    double best = std::numeric_limits<double>::infinity();
    for (int round = 0; round < 3; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int64_t r = 0; r < rows; r += at_once) {
        kernels::attend_chunk_cpu({q_.data(), group_ * head_dim_, head_dim_, 0, group_, bf16_ ? nullptr : heads_.data(),
                                   ids_.data() + r, ids_.data() + r, first_.data(), last_.data(), at_once, out_.data(),
                                   max_.data(), sum_.data(), group_, narrow_heads_.data()});
      }
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  }

 private:
  int64_t head_dim_, group_;
  bool bf16_;
  std::vector<float> memory_, q_, out_, max_, sum_;
  std::vector<uint16_t> narrow_memory_;
  std::vector<const float*> heads_;
  std::vector<const uint16_t*> narrow_heads_;
  std::vector<int32_t> ids_, first_, last_;
};

}  // namespace

int64_t measure_sharing_threshold(int64_t head_dim, int64_t group, bool bf16) {
  Probe probe(head_dim, group, bf16);
  for (int64_t rows = 2; rows <= kMostRows; rows *= 2) {
    if (probe.time(rows, rows) < probe.time(rows, 1)) return rows;
  }
  return std::numeric_limits<int64_t>::max();
}

}  // namespace stepward
