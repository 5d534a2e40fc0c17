// What the runs of a forest see, as sequences of one variable-length attention call: a run's queries are its own tokens,
// its keys those of its path and its own, so that a query sees as many keys as its position counts ("lower-right" causal).
// A trunk is one sequence, each leaf another. Plain integers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/tree_attention.h"

namespace stepward {

struct VarlenPlan {
  std::vector<int32_t> queries{0};    // [runs + 1] tokens [queries[r], queries[r + 1]) are run r's
  std::vector<int32_t> key_begin{0};  // [runs + 1] so are the keys [key_begin[r], key_begin[r + 1])
  std::vector<int32_t> keys;          // [keys] token of each
  // The inverse: token t is the keys uses[use_begin[t] .. use_begin[t + 1]), ascending.
  std::vector<int32_t> uses;       // [keys]
  std::vector<int32_t> use_begin;  // [tokens + 1]
  int64_t most_queries = 0, most_keys = 0;  // of a run

  // Every token is one key, in order: nothing is shared.
  bool is_plain() const { return keys.size() + 1 == use_begin.size(); }
};

VarlenPlan plan_varlen(const kernels::AttentionPlan& plan);

}  // namespace stepward
