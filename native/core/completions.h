// Log-probs of completions: the sums over their tokens that a preference loss compares.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/model.h"
#include "stepward/trainer.h"

namespace stepward {

// Throws INVALID_ARGUMENT naming the field of `batch` whose shape or indices do not fit, and what validate_forest
// throws.
void check_completions(const Model& model, const PreferenceBatch& batch);

// Log-prob of each completion, summed in float64 over its tokens, and its number of scored tokens.
struct CompletionLogprobs {
  at::Tensor values;             // [C] f64, differentiable where grad mode is on
  std::vector<int32_t> lengths;  // [C]
  // [3, C] f64 where asked for: of each completion's tokens the number that no other was likelier than, and the sums of
  // their entropies and mean logits.
  at::Tensor statistics;
};

// Runs a checked batch's forest and sums. Throws INVALID_ARGUMENT for a completion without a token to score.
CompletionLogprobs completion_logprobs(const Model& model, const PreferenceBatch& batch, bool statistics = false);

}  // namespace stepward
