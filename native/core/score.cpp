// Log-probs of a forest's tokens: forward once, gather the hidden states that predict scored tokens, score those only.
#include "stepward/score.h"

#include <ATen/TensorOperators.h>

#include "core/tensors.h"
#include "core/train/ops.h"

namespace stepward {

ForestLogprobs forest_logprobs(const Model& model, const Forest& forest, const std::vector<uint8_t>& scored,
                               bool statistics) {
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
  const Linear& head = model.head_linear();
  LowRankLogits adapter;
  if (head.lora && model.adapters_on()) {
    adapter = {stepward::linear(hidden, head.lora->a) * head.lora->scale, head.lora->b};
  }
  result.values = selected_logprobs(hidden, head.weight, index_tensor(targets, model.device()), adapter,
                                    statistics ? &result.statistics : nullptr);
  return result;
}

}  // namespace stepward
