// Whole forests through the rollout engine against the plain forward pass, and what a request promises: ends, streams,
// budgets, sharing.
#include <gtest/gtest.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>

#include "core/stop_text.h"
#include "core/tensors.h"
#include "helpers/tiny_model.h"
#include "stepward/rollout.h"
#include "stepward/score.h"

namespace stepward {
namespace {

using testing::path_tokens;
using testing::random_forest;
using testing::tiny_model;

const auto kNever = std::make_shared<CancelFlag>();

GenerateResult run(const Model& model, const GenerateRequest& request, const RolloutOptions& options = {}) {
  Rollout rollout(model, options);
  return generate(rollout, {}, request, kNever);
}

GenerateRequest request_for(const Forest& forest, std::vector<int32_t> nodes) {
  GenerateRequest request;
  request.forest = forest;
  for (int32_t node : nodes) {
    request.tree_keys.push_back(1000 + node);
    request.steps.push_back(0);
  }
  request.nodes = std::move(nodes);
  request.sampling.max_new_tokens = 12;
  return request;
}

std::vector<int32_t> row_tokens(const GenerateResult& result, int64_t row) {
  return result.rows[row].tokens;
}

class GenerateTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GenerateTest, GreedyEqualsArgmaxOfTheWholeSequenceAgain) {
  at::NoGradGuard no_grad;
  const auto model = tiny_model(GetParam().first, GetParam().second);
  std::mt19937 random(4);
  const Forest forest = random_forest(random, 4, 3);
  GenerateRequest request = request_for(forest, {2, 3, 7, 11, 10});
  request.sampling.temperature = 0;
  const GenerateResult result = run(*model, request);
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    std::vector<int32_t> tokens = path_tokens(forest, request.nodes[i]);
    for (int32_t id : row_tokens(result, static_cast<int64_t>(i))) {
      const Forest whole = testing::chain(tokens);
      const std::vector<float> logits =
          to_floats(at::linear(model->forward(whole, pack_forest(whole)), model->head())[-1]);
      EXPECT_EQ(id, std::max_element(logits.begin(), logits.end()) - logits.begin());
      tokens.push_back(id);
    }
    EXPECT_EQ(result.rows[i].finish, Finish::length);
  }
}

TEST_P(GenerateTest, LogprobsWhileSamplingEqualScores) {
  const auto model = tiny_model(GetParam().first, GetParam().second);
  std::mt19937 random(6);
  const Forest forest = random_forest(random, 2, 4);
  GenerateRequest request = request_for(forest, {3, 6});
  request.samples = 5;
  request.sampling.temperature = 0.7f;
  request.sampling.top_p = 0.9f;
  const GenerateResult result = run(*model, request);
  for (int64_t row = 0; row < 10; ++row) {
    std::vector<int32_t> tokens = path_tokens(forest, request.nodes[row / 5]);
    const size_t prompt = tokens.size();
    for (int32_t id : row_tokens(result, row)) tokens.push_back(id);
    const std::vector<float> scores = testing::forward_logprobs(*model, testing::chain(tokens), {1});
    for (size_t t = prompt; t < tokens.size(); ++t) EXPECT_NEAR(result.rows[row].logprobs[t - prompt], scores[t], 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GenerateTest,
                         ::testing::Values(std::pair{"llama", ""}, std::pair{"mistral", "\"sliding_window\": 4"},
                                           std::pair{"qwen2", "\"tie_word_embeddings\": true"},
                                           std::pair{"qwen3", "\"head_dim\": 16"}));

TEST(Generate, ACandidateDoesNotDependOnTheBatchAroundIt) {
  const auto model = tiny_model();
  std::mt19937 random(8);
  const Forest forest = random_forest(random, 6, 2);
  GenerateRequest together = request_for(forest, {1, 3, 5, 7, 9, 11});
  together.samples = 4;
  together.sampling.seed = 9;
  const GenerateResult all = run(*model, together);
  GenerateRequest alone = request_for(forest, {7});
  alone.sampling.seed = 9;
  alone.first_candidate = 2;
  EXPECT_EQ(row_tokens(run(*model, alone), 0), row_tokens(all, 3 * 4 + 2));
  // A budget of a few blocks only makes it slower: rows lose their keys and values and get them again.
  const GenerateResult tight = run(*model, together, {.kv_budget_bytes = 8 * 32768});
  for (size_t row = 0; row < all.rows.size(); ++row) {
    EXPECT_EQ(tight.rows[row].tokens, all.rows[row].tokens);
    EXPECT_EQ(tight.rows[row].logprobs, all.rows[row].logprobs);
  }
  EXPECT_GT(tight.computed_tokens, all.computed_tokens);
}

TEST(Generate, SharedPrefixesAreComputedOnce) {
  const auto model = tiny_model();
  const Forest forest{{1, 2, 3, 4, 5, 6, 7}, {0, 4, 5, 7}, {-1, 0, 0}};
  GenerateRequest request = request_for(forest, {1, 2, 0});
  request.samples = 3;
  const GenerateResult result = run(*model, request);
  EXPECT_EQ(result.computed_tokens, 7);
  EXPECT_EQ(result.prefix_free_tokens, 3 * (5 + 6 + 4));
}

TEST(Generate, EndsOnEosAfterTheMinimumAndAtTheLastPosition) {
  const auto model = tiny_model();
  GenerateRequest request = request_for(testing::chain({3, 4, 5}), {0});
  request.sampling.temperature = 0;
  const std::vector<int32_t> free_run = row_tokens(run(*model, request), 0);
  request.sampling.eos_ids = {free_run[2]};
  const size_t first = std::find(free_run.begin(), free_run.end(), free_run[2]) - free_run.begin();
  const GenerateResult ended = run(*model, request);
  EXPECT_EQ(row_tokens(ended, 0), std::vector<int32_t>(free_run.begin(), free_run.begin() + first + 1));
  EXPECT_EQ(ended.rows[0].finish, Finish::eos);
  request.sampling.min_new_tokens = 6;
  const std::vector<int32_t> longer = row_tokens(run(*model, request), 0);
  EXPECT_GE(longer.size(), 6u);
  EXPECT_EQ(std::count(longer.begin(), longer.begin() + 6, free_run[2]), 0);

  GenerateRequest full = request_for(testing::chain(std::vector<int32_t>(120, 7)), {0});
  full.sampling.max_new_tokens = 100;
  const GenerateResult at_end = run(*model, full);
  EXPECT_EQ(row_tokens(at_end, 0).size(), 8u);
  EXPECT_EQ(at_end.rows[0].finish, Finish::length);
}

TEST(Generate, CancelStopsBetweenTokens) {
  const auto model = tiny_model();
  const auto cancel = std::make_shared<CancelFlag>();
  GenerateRequest request = request_for(testing::chain({3}), {0});
  Rollout rollout(*model, {});
  int64_t steps = 0;
  EXPECT_THROW(generate(rollout, {}, request, cancel,
                        [&](int64_t) {
                          if (++steps == 3) cancel->cancel();
                        }),
               Error);
  EXPECT_EQ(steps, 3);
  EXPECT_EQ(rollout.counters().live_segments, 0);
}

TEST(Readout, EqualsTheScoresOfTheLabels) {
  const auto model = tiny_model("qwen3");
  const Forest forest{{1, 2, 3, 4, 5}, {0, 2, 4, 5}, {-1, 0, 0}};
  Rollout rollout(*model, {});
  const ReadoutResult result = readout(rollout, forest, {2, 1}, {10, 20}, kNever);
  const auto expect = [&](std::vector<int32_t> prefix, int32_t label, float got) {
    prefix.push_back(label);
    EXPECT_NEAR(testing::forward_logprobs(*model, testing::chain(prefix), {1}).back(), got, 1e-5);
  };
  expect({1, 2, 5}, 10, result.logprobs[0]);
  expect({1, 2, 5}, 20, result.logprobs[1]);
  expect({1, 2, 3, 4}, 20, result.logprobs[3]);
  EXPECT_EQ(result.computed_tokens, 5);
  EXPECT_EQ(result.prefix_free_tokens, 7);
}

TEST(StopText, EndsInsideTheTokenThatCompletesIt) {
  // ids: 0 "\n", 1 "a", 2 "b\n", 3 "\n\n", 4 "E", 5 "ND", 6 " "
  TokenBytes bytes{"\nab\n\n\nEND ", {0, 1, 2, 4, 6, 7, 9, 10}};
  const std::vector<std::string> newline = {"\n"}, word = {"END"}, blank_line = {"\n\n"};
  const auto ends = [&](const std::vector<std::string>& stop, std::vector<int32_t> ids) {
    StopText text(bytes, stop);
    StopText::State state;
    std::vector<bool> ended;
    for (int32_t id : ids) ended.push_back(text.add(state, id));
    return ended;
  };
  EXPECT_EQ(ends(newline, {0, 3, 6, 1, 0}),
            (std::vector<bool>{false, false, false, false, true}));  // blank lines first: no end
  EXPECT_EQ(ends(newline, {2}), (std::vector<bool>{true}));
  EXPECT_EQ(ends(word, {4, 5}), (std::vector<bool>{false, true}));
  EXPECT_EQ(ends(blank_line, {1, 0, 0}), (std::vector<bool>{false, false, true}));
  EXPECT_EQ(ends(blank_line, {2, 0, 1, 3}), (std::vector<bool>{false, true, false, true}));
  EXPECT_THROW(StopText({}, newline), Error);
}

}  // namespace
}  // namespace stepward
