// Log-probs of a forest's tokens: forward once, gather the hidden states that predict scored tokens, score those only.
#include "stepward/score.h"

#include <limits>

#include <ATen/core/grad_mode.h>

#include "core/tensors.h"
#include "stepward/error.h"

namespace stepward {

ForestLogprobs forest_logprobs(const Model& model, const Forest& forest, const std::vector<uint8_t>& scored) {
  const PackedForest packed = pack_forest(forest);
  ForestLogprobs result;
  std::vector<int64_t> sources;
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < forest.num_tokens(); ++t) {
    if (!scored[packed.segment[t]] || packed.source[t] < 0) continue;
    result.tokens.push_back(t);
    result.segments.push_back(packed.segment[t]);
    sources.push_back(packed.source[t]);
    targets.push_back(forest.tokens[t]);
  }
  if (sources.empty()) {
    result.values = float_tensor({}, model.device());
    return result;
  }
  const at::Tensor hidden = model.forward(forest, packed).index_select(0, index_tensor(sources, model.device()));
  result.values = selected_logprobs(hidden, model.head(), index_tensor(targets, model.device()));
  return result;
}

std::vector<float> score(const Model& model, const Forest& forest, const std::vector<uint8_t>& scored,
                         int64_t max_tokens, const CancelFlag& cancel) {
  at::NoGradGuard no_grad;
  validate_forest(forest, model.config().vocab_size, model.config().max_positions);
  if (static_cast<int64_t>(scored.size()) != forest.num_segments()) {
    fail(ErrorCode::INVALID_ARGUMENT, "scored: expected one entry per segment (", forest.num_segments(), "), got ",
         scored.size());
  }
  std::vector<float> logprobs(forest.tokens.size(), std::numeric_limits<float>::quiet_NaN());
  for (const TreeRange& range : tree_batches(forest, max_tokens)) {
    cancel.check();
    const Forest part = slice_trees(forest, range);
    const std::vector<uint8_t> wanted(scored.begin() + range.first_segment, scored.begin() + range.end_segment);
    const ForestLogprobs result = forest_logprobs(model, part, wanted);
    const std::vector<float> values = to_floats(result.values);
    for (size_t i = 0; i < values.size(); ++i)
      logprobs[forest.offsets[range.first_segment] + result.tokens[i]] = values[i];
  }
  return logprobs;
}

}  // namespace stepward
