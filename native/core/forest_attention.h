// Attention inside a packed forest: a query sees a key iff the key's segment is an ancestor of (or is) the query's and
// comes no later, and lies within the sliding window where the layer has one.
#pragma once

#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/forest.h"
#include "stepward/model_config.h"

namespace stepward {

// The plan of one forward pass, shared by its layers. Trees of similar length are padded into one batch, so that a
// forest of many small trees costs a few calls; a batch of chains (one branch each) needs no mask.
class ForestAttention {
 public:
  ForestAttention(const Forest& forest, const PackedForest& packed, const ModelConfig& config, const at::Device& device,
                  at::ScalarType dtype);

  // q [T, heads, head_dim], k and v [T, kv_heads, head_dim] -> [T, heads * head_dim]. Differentiable.
  at::Tensor operator()(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;

 private:
  struct Batch {
    int64_t trees = 0, length = 0;        // padded shape
    bool identity = false;                // the batch is the forest in order without padding: nothing to gather
    bool chains = true;                   // every tree is one branch
    int64_t longest = 0;                  // longest path, to see whether a window bites
    at::Tensor gather;                    // [trees * length] i64 token of each slot (padding: the tree's first token)
    std::map<int64_t, at::Tensor> masks;  // window -> [trees, 1, length, length] of the model's dtype, 0 or -inf
  };

  const ModelConfig& config_;
  std::vector<Batch> batches_;
  at::Tensor restore_;  // [T] i64 slot of each token in the concatenated batches; undefined when that is the identity
};

}  // namespace stepward
