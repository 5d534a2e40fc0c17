#include "core/completions.h"

#include <algorithm>

#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "core/tensors.h"
#include "stepward/error.h"
#include "stepward/score.h"

namespace stepward {

void check_completions(const Model& model, const PreferenceBatch& batch) {
  validate_forest(batch.forest, model.config().vocab_size, model.config().max_positions);
  const int64_t completions = static_cast<int64_t>(batch.completion_offsets.size()) - 1,
                pairs = static_cast<int64_t>(batch.chosen.size());
  if (completions < 1 || batch.completion_offsets.front() != 0 ||
      batch.completion_offsets.back() != static_cast<int64_t>(batch.completion_segments.size())) {
    fail(ErrorCode::INVALID_ARGUMENT, "completionOffsets: expected at least one completion, running from 0 to ",
         batch.completion_segments.size());
  }
  for (int64_t c = 1; c <= completions; ++c) {
    if (batch.completion_offsets[c] < batch.completion_offsets[c - 1]) {
      fail(ErrorCode::INVALID_ARGUMENT, "batch.completionOffsets[", c, "]: expected at least the entry before it, got ",
           batch.completion_offsets[c]);
    }
  }
  for (int32_t segment : batch.completion_segments) {
    if (segment < 0 || segment >= batch.forest.num_segments())
      fail(ErrorCode::INVALID_ARGUMENT, "completionSegments: ", segment, " is no segment");
  }
  if (static_cast<int64_t>(batch.rejected.size()) != pairs || static_cast<int64_t>(batch.weight.size()) != pairs) {
    fail(ErrorCode::INVALID_ARGUMENT, "rejected, weight: expected one entry per pair (", pairs, "), got ",
         batch.rejected.size(), " and ", batch.weight.size());
  }
  for (const auto* side : {&batch.chosen, &batch.rejected}) {
    for (int32_t completion : *side) {
      if (completion < 0 || completion >= completions)
        fail(ErrorCode::INVALID_ARGUMENT, "chosen, rejected: ", completion, " is no completion");
    }
  }
}

CompletionLogprobs completion_logprobs(const Model& model, const PreferenceBatch& batch, bool statistics) {
  std::vector<uint8_t> scored(batch.forest.num_segments(), 0);
  for (int32_t segment : batch.completion_segments) scored[segment] = 1;
  const ForestLogprobs tokens = forest_logprobs(model, batch.forest, scored, statistics);

  // Where each scored segment's values stand: tokens are ascending, so a segment's values are consecutive.
  const int64_t completions = static_cast<int64_t>(batch.completion_offsets.size()) - 1;
  std::vector<int64_t> value_index, completion_index;
  CompletionLogprobs result;
  result.lengths.assign(completions, 0);
  for (int64_t c = 0; c < completions; ++c) {
    for (int32_t i = batch.completion_offsets[c]; i < batch.completion_offsets[c + 1]; ++i) {
      const int32_t segment = batch.completion_segments[i];
      const auto first = std::lower_bound(tokens.tokens.begin(), tokens.tokens.end(), batch.forest.offsets[segment]);
      const auto last = std::lower_bound(first, tokens.tokens.end(), batch.forest.offsets[segment + 1]);
      for (auto token = first; token != last; ++token) {
        value_index.push_back(token - tokens.tokens.begin());
        completion_index.push_back(c);
      }
      result.lengths[c] += static_cast<int32_t>(last - first);
    }
    if (result.lengths[c] == 0) fail(ErrorCode::INVALID_ARGUMENT, "completion ", c, " has no token to score");
  }
  const at::Tensor from = index_tensor(value_index, model.device()),
                   to = index_tensor(completion_index, model.device());
  const auto summed = [&](const at::Tensor& values) {  // [n] -> [C]
    const at::Tensor picked = values.to(at::kDouble).index_select(0, from);
    return at::zeros({completions}, picked.options().requires_grad(false)).index_add(0, to, picked);
  };
  result.values = summed(tokens.values);
  if (statistics) {
    const TokenStatistics& s = tokens.statistics;
    result.statistics = at::stack({summed(s.correct), summed(s.entropy), summed(s.mean_logit)});
  }
  return result;
}

}  // namespace stepward
