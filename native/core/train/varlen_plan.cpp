#include "core/train/varlen_plan.h"

#include <algorithm>
#include <numeric>

namespace stepward {

VarlenPlan plan_varlen(const kernels::AttentionPlan& plan) {
  VarlenPlan varlen;
  const auto add = [&](const kernels::AttentionRun& run, int32_t tokens) {
    const auto first = static_cast<int64_t>(varlen.keys.size());
    varlen.keys.resize(first + tokens);
    std::iota(varlen.keys.begin() + first, varlen.keys.end(), run.first_token);
  };
  for (const kernels::AttentionRun& run : plan.runs) {
    if (run.tokens == 0) continue;
    for (int32_t i = run.path_begin; i < run.path_end; ++i) add(plan.runs[plan.path[i].run], plan.path[i].tokens);
    add(run, run.tokens);
    varlen.queries.push_back(run.first_token + run.tokens);
    varlen.key_begin.push_back(static_cast<int32_t>(varlen.keys.size()));
    varlen.most_queries = std::max<int64_t>(varlen.most_queries, run.tokens);
    varlen.most_keys = std::max<int64_t>(varlen.most_keys, run.position + run.tokens);
  }

  varlen.use_begin.assign(varlen.queries.back() + 1, 0);
  for (const int32_t token : varlen.keys) ++varlen.use_begin[token + 1];
  std::partial_sum(varlen.use_begin.begin(), varlen.use_begin.end(), varlen.use_begin.begin());
  varlen.uses.resize(varlen.keys.size());
  std::vector<int32_t> next = varlen.use_begin;
  for (size_t key = 0; key < varlen.keys.size(); ++key) varlen.uses[next[varlen.keys[key]]++] = static_cast<int32_t>(key);
  return varlen;
}

}  // namespace stepward
