#include "core/train/attention_plan.h"

namespace stepward {

kernels::AttentionPlan plan_attention(const Forest& forest, const PackedForest& packed) {
  kernels::AttentionPlan plan;
  const auto length = [&](int32_t s) { return forest.offsets[s + 1] - forest.offsets[s]; };
  std::vector<int32_t> run_of(forest.num_segments());
  int32_t blocks = 0;
  for (int64_t tree = 0; tree < packed.num_trees(); ++tree) {
    for (int32_t s = packed.tree_first[tree]; s < packed.tree_first[tree + 1]; ++s) {
      const int32_t parent = forest.parents[s];
      // The parent's run goes on where nothing has come between.
      const bool joins = parent >= 0 && run_of[parent] + 1 == static_cast<int32_t>(plan.runs.size()) &&
                         forest.offsets[parent + 1] == forest.offsets[s] &&
                         plan.runs.back().first_token + plan.runs.back().tokens == forest.offsets[s];
      if (joins) {
        plan.runs.back().tokens += length(s);
        run_of[s] = run_of[parent];
        continue;
      }
      kernels::AttentionRun run{forest.offsets[s], length(s), packed.start[s], 0,
                                static_cast<int32_t>(plan.path.size()), 0};
      if (parent >= 0) {
        const kernels::AttentionRun& above = plan.runs[run_of[parent]];
        for (int32_t i = above.path_begin; i < above.path_end; ++i) plan.path.push_back(kernels::AttentionRange(plan.path[i]));
        plan.path.push_back({run_of[parent], forest.offsets[parent + 1] - above.first_token});
      }
      run.path_end = static_cast<int32_t>(plan.path.size());
      run_of[s] = static_cast<int32_t>(plan.runs.size());
      plan.runs.push_back(run);
    }
    for (size_t r = plan.tree_run.back(); r < plan.runs.size(); ++r) {
      plan.runs[r].first_block = blocks;
      blocks += static_cast<int32_t>((plan.runs[r].tokens + kernels::kKeyBlock - 1) / kernels::kKeyBlock);
    }
    plan.tree_run.push_back(static_cast<int32_t>(plan.runs.size()));
    plan.tree_block.push_back(blocks);
  }
  return plan;
}

}  // namespace stepward
