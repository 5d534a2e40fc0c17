#include "core/forest_attention.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "core/tensors.h"

namespace stepward {
namespace {

struct Tree {
  int32_t first_segment, end_segment, first_token, tokens;
  bool chain;
};

std::vector<Tree> trees_of(const Forest& forest, const PackedForest& packed) {
  std::vector<Tree> trees;
  for (int64_t r = 0; r < packed.num_trees(); ++r) {
    Tree tree{packed.tree_first[r], packed.tree_first[r + 1], 0, 0, true};
    tree.first_token = forest.offsets[tree.first_segment];
    tree.tokens = forest.offsets[tree.end_segment] - tree.first_token;
    for (int32_t s = tree.first_segment + 1; s < tree.end_segment; ++s) tree.chain &= forest.parents[s] == s - 1;
    if (tree.tokens > 0) trees.push_back(tree);
  }
  return trees;
}

// Additive mask of padded trees, [trees, 1, length, length]. Rows lie a multiple of 16 apart, as a GPU's kernels want
// them. Padding queries see slot 0 only: a softmax over nothing is NaN.
at::Tensor build_mask(const Forest& forest, const PackedForest& packed, const std::vector<Tree>& trees, int64_t length,
                      int64_t window, const at::Device& device, at::ScalarType dtype) {
  const int64_t stride = (length + 15) / 16 * 16;
  at::Tensor mask = at::full({static_cast<int64_t>(trees.size()), 1, length, stride},
                             -std::numeric_limits<float>::infinity(), at::kFloat);
  float* data = mask.data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(trees.size()) * length, 64, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      const Tree& tree = trees[slot / length];
      const int32_t query = static_cast<int32_t>(slot % length);
      float* row = data + slot * stride;
      if (query >= tree.tokens) {
        row[0] = 0;
        continue;
      }
      const int32_t token = tree.first_token + query, position = packed.position[token];
      const int32_t oldest = window > 0 ? std::max<int32_t>(0, position - static_cast<int32_t>(window) + 1) : 0;
      for (int32_t s = packed.segment[token]; s >= 0; s = forest.parents[s]) {
        const int32_t first = forest.offsets[s], end_of_segment = forest.offsets[s + 1];
        const int32_t from = first + std::max(0, oldest - packed.start[s]), to = std::min(token + 1, end_of_segment);
        if (from < to) std::fill(row + from - tree.first_token, row + to - tree.first_token, 0.0f);
      }
    }
  });
  return mask.to(device, dtype).narrow(3, 0, length);
}

}  // namespace

ForestAttention::ForestAttention(const Forest& forest, const PackedForest& packed, const ModelConfig& config,
                                 const at::Device& device, at::ScalarType dtype)
    : config_(config) {
  std::vector<Tree> trees = trees_of(forest, packed);
  std::stable_sort(trees.begin(), trees.end(), [](const Tree& a, const Tree& b) { return a.tokens > b.tokens; });

  std::vector<int64_t> restore(forest.num_tokens());
  int64_t slots = 0;
  for (size_t begin = 0; begin < trees.size();) {
    const int64_t length = trees[begin].tokens;
    // At most a quarter of the longest tree is padding: attention grows with the square of it.
    size_t end = begin;
    while (end < trees.size() && trees[end].tokens * 4 >= length * 3) ++end;
    const std::vector<Tree> group(trees.begin() + begin, trees.begin() + end);
    Batch batch;
    batch.trees = static_cast<int64_t>(group.size());
    batch.length = length;
    std::vector<int64_t> gather(batch.trees * length);
    for (int64_t b = 0; b < batch.trees; ++b) {
      const Tree& tree = group[b];
      batch.chains &= tree.chain;
      for (int64_t i = 0; i < length; ++i) {
        gather[b * length + i] = tree.first_token + (i < tree.tokens ? i : 0);
        if (i < tree.tokens) {
          restore[tree.first_token + i] = slots + b * length + i;
          batch.longest = std::max<int64_t>(batch.longest, packed.position[tree.first_token + i] + 1);
        }
      }
    }
    batch.identity = begin == 0 && end == trees.size() && static_cast<int64_t>(gather.size()) == forest.num_tokens() &&
                     std::is_sorted(gather.begin(), gather.end());
    if (!batch.identity) batch.gather = index_tensor(gather, device);
    for (int64_t window : config.window) {
      if (window >= batch.longest) window = 0;
      const bool needed = !batch.chains || window > 0;
      if (needed && !batch.masks.count(window)) {
        batch.masks[window] = build_mask(forest, packed, group, length, window, device, dtype);
      }
    }
    slots += batch.trees * length;
    batches_.push_back(std::move(batch));
    begin = end;
  }
  if (batches_.size() != 1 || !batches_[0].identity) restore_ = index_tensor(restore, device);
}

at::Tensor ForestAttention::operator()(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v) const {
  std::vector<at::Tensor> outputs;
  for (const Batch& batch : batches_) {
    const auto padded = [&](const at::Tensor& x) {  // [T, h, d] -> [trees, h, length, d]
      const at::Tensor rows = batch.identity ? x : x.index_select(0, batch.gather);
      return rows.view({batch.trees, batch.length, x.size(1), x.size(2)}).transpose(1, 2);
    };
    const int64_t window = config_.window[layer] >= batch.longest ? 0 : config_.window[layer];
    const auto mask = batch.masks.find(window);
    const bool masked = mask != batch.masks.end();
    // With a mask, a GPU has none but a slow kernel for grouped heads: there every query head gets its own.
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    const bool repeats = group > 1 && masked && q.is_cuda();
    const auto grouped = [&](const at::Tensor& x) {
      return repeats ? padded(x).repeat_interleave(group, 1) : padded(x);
    };
    const at::Tensor out = at::scaled_dot_product_attention(padded(q), grouped(k), grouped(v),
                                                            masked ? std::optional(mask->second) : std::nullopt, 0.0,
                                                            !masked, std::nullopt, group > 1 && !repeats);
    outputs.push_back(out.transpose(1, 2).reshape({batch.trees * batch.length, -1}));
  }
  const at::Tensor all = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
  return restore_.defined() ? all.index_select(0, restore_) : all;
}

}  // namespace stepward
