// Which runs of tokens a forest consists of and what each sees, for kernels/tree_attention.h. Plain integers.
#pragma once

#include "kernels/tree_attention.h"
#include "stepward/forest.h"

namespace stepward {

kernels::AttentionPlan plan_attention(const Forest& forest, const PackedForest& packed);

}  // namespace stepward
