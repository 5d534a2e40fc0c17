#include "addon/rollout_values.h"

#include <limits>

namespace stepward::addon {

SamplingOptions read_sampling(const Field& field) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  SamplingOptions options;
  options.seed = field["seed"].uint64();
  options.temperature = static_cast<float>(field["temperature"].number());
  options.top_p = static_cast<float>(field["topP"].number());
  options.top_k = static_cast<int32_t>(field["topK"].integer(0, most));
  options.min_p = static_cast<float>(field["minP"].number());
  options.min_new_tokens = static_cast<int32_t>(field["minNewTokens"].integer(0, most));
  options.max_new_tokens = static_cast<int32_t>(field["maxNewTokens"].integer(1, most));
  options.eos_ids = field["eosIds"].array<int32_t>();
  options.stop = field["stop"].texts();
  return options;
}

void set_candidates(Napi::Object& out, const std::vector<Candidate>& candidates) {
  std::vector<int32_t> tokens;
  std::vector<int64_t> offsets{0};
  std::vector<float> logprobs, sampling_logprobs, log_kept;
  std::vector<uint8_t> finish;
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (const Candidate& candidate : candidates) {
    append(tokens, candidate.tokens);
    append(logprobs, candidate.logprobs);
    append(sampling_logprobs, candidate.sampling_logprobs);
    append(log_kept, candidate.log_kept);
    offsets.push_back(static_cast<int64_t>(tokens.size()));
    finish.push_back(static_cast<uint8_t>(candidate.finish));
  }
  const Napi::Env env = out.Env();
  out.Set("tokens", to_js(env, tokens));
  out.Set("offsets", to_js(env, offsets));
  out.Set("logprobs", to_js(env, logprobs));
  out.Set("samplingLogprobs", to_js(env, sampling_logprobs));
  out.Set("logKept", to_js(env, log_kept));
  out.Set("finish", to_js(env, finish));
}

}  // namespace stepward::addon
