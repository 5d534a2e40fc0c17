// What tests of the rollout engine ask of it, over and over.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "kernels/segment_attention.h"
#include "stepward/rollout.h"

namespace stepward::testing {

inline const auto kNever = std::make_shared<CancelFlag>();

inline std::vector<int32_t> random_ids(std::mt19937& random, int count, int vocab = 61) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random() % vocab));
  return ids;
}

inline std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Of a block of 32 tokens: every layer and KV head.
inline int64_t block_bytes(const Model& model) {
  const ModelConfig& config = model.config();
  return config.num_layers * config.num_kv_heads * kernels::head_block_elements(config.head_dim) * 4;
}

inline ForkRequest fork_of(NodeId node, int32_t samples, uint64_t tree_key, int32_t max_new_tokens = 10) {
  ForkRequest request;
  request.node = node;
  request.samples = samples;
  request.tree_key = tree_key;
  request.sampling.temperature = 0.8f;
  request.sampling.top_p = 0.95f;
  request.sampling.max_new_tokens = max_new_tokens;
  return request;
}

inline std::vector<Candidate> fork_now(Rollout& rollout, const ForkRequest& request) {
  std::vector<Candidate> result;
  rollout.fork(request, {}, 0, kNever, [&](std::vector<Candidate> candidates, std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
    result = std::move(candidates);
  });
  rollout.drain();
  return result;
}

// Every number of two candidates, to the last bit.
inline void expect_same(const Candidate& a, const Candidate& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.logprobs, b.logprobs);
  EXPECT_EQ(a.sampling_logprobs, b.sampling_logprobs);
  EXPECT_EQ(a.log_kept, b.log_kept);
  EXPECT_EQ(a.finish, b.finish);
}

}  // namespace stepward::testing
