// Next-token probabilities of a few labels at tree nodes: a forward pass, then one row of logits per node.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/repeat_interleave.h>

#include "core/tensors.h"
#include "stepward/error.h"
#include "stepward/rollout.h"
#include "stepward/score.h"

namespace stepward {

ReadoutResult readout(const Model& model, const Forest& forest, const std::vector<int32_t>& nodes,
                      const std::vector<int32_t>& labels, const CancelFlag& cancel) {
  at::NoGradGuard no_grad;
  validate_forest(forest, model.config().vocab_size, model.config().max_positions);
  validate_ids("labels", labels, model.config().vocab_size);
  validate_nodes(forest, nodes);
  const int64_t count = static_cast<int64_t>(labels.size());
  ReadoutResult result;
  result.logprobs.resize(nodes.size() * labels.size());
  for (const TreeRange& range : tree_batches(forest, kForwardTokens)) {
    cancel.check();
    const Forest part = slice_trees(forest, range);
    const PackedForest packed = pack_forest(part);
    std::vector<int64_t> entries, last;
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i] < range.first_segment || nodes[i] >= range.end_segment) continue;
      const int32_t segment = nodes[i] - range.first_segment;
      if (packed.last_token[segment] < 0)
        fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", i, " has no token before it to read after");
      entries.push_back(static_cast<int64_t>(i));
      last.push_back(packed.last_token[segment]);
      result.prefix_free_tokens += packed.position[packed.last_token[segment]] + 1;
    }
    if (entries.empty()) continue;
    const at::Tensor hidden = model.forward(part, packed).index_select(0, index_tensor(last, model.device()));
    result.computed_tokens += part.num_tokens();
    std::vector<int32_t> targets;
    for (size_t i = 0; i < entries.size(); ++i) targets.insert(targets.end(), labels.begin(), labels.end());
    const at::Tensor rows = hidden.repeat_interleave(count, 0);
    const std::vector<float> values =
        to_floats(selected_logprobs(rows, model.head(), index_tensor(targets, model.device())));
    for (size_t i = 0; i < entries.size(); ++i)
      std::copy_n(values.begin() + i * count, count, result.logprobs.begin() + entries[i] * count);
  }
  return result;
}

}  // namespace stepward
