// What sampling takes and gives, between JavaScript and the core.
#pragma once

#include <vector>

#include "addon/convert.h"
#include "stepward/rollout.h"

namespace stepward::addon {

// The fields of NativeSampling in src/native/contract.ts.
SamplingOptions read_sampling(const Field& field);

// Adds tokens, offsets, logprobs, samplingLogprobs, logKept and finish of the candidates, end to end.
void set_candidates(Napi::Object& out, const std::vector<Candidate>& candidates);

}  // namespace stepward::addon
