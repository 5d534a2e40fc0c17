// Teacher-forced log-probs of a forest's tokens with gradients, never building a [tokens, vocab] matrix. One op serves
// policy and reference, so that a policy equal to its reference gives margins of exactly zero. Scoring without
// gradients is the rollout engine's (rollout.h).
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/forest.h"
#include "stepward/model.h"

namespace stepward {

// The distributions that tokens were predicted from, [n] f32 each: entropy in nats, mean logit over the vocabulary, and
// 1 where no token was likelier than the target.
struct TokenStatistics {
  at::Tensor entropy, mean_logit, correct;
};

// What a LoRA adapter of the head adds to the logits: input output^T. Both undefined: nothing.
struct LowRankLogits {
  at::Tensor input;   // [n, rank]: scale * (hidden A^T)
  at::Tensor output;  // [vocab, rank]: B
};

// log p(target | hidden): hidden [n, d], weight [vocab, d], targets [n] i32 -> [n] f32. Differentiable in hidden,
// weight and the adapter's two. Where weight or adapter are trained the backward pass recomputes logits block by block;
// else the gradient of hidden is made along with the log-probs and only scaled later. Memory is flat in the vocabulary.
at::Tensor selected_logprobs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                             const LowRankLogits& adapter = {}, TokenStatistics* statistics = nullptr);

struct ForestLogprobs {
  at::Tensor values;              // [n] f32, differentiable where grad mode is on
  std::vector<int64_t> tokens;    // [n] the token each value belongs to, ascending
  std::vector<int32_t> segments;  // [n] that token's segment
  TokenStatistics statistics;     // where asked for and n > 0
};

// Log-probs of all tokens of the segments marked in `scored` [S], each conditioned on its path. A root's first token is
// left out (nothing predicts it).
ForestLogprobs forest_logprobs(const Model& model, const Forest& forest, const std::vector<uint8_t>& scored,
                               bool statistics = false);

}  // namespace stepward
