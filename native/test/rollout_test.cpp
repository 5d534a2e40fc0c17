// The rollout engine's verbs: against the plain forward pass under random sequences of them, and what they promise
// about batches, sharing, cancelled neighbours, tight budgets, new weights and token counts.
#include <gtest/gtest.h>

#include <map>
#include <memory>

#include <ATen/TensorOperators.h>

#include "helpers/rollout_requests.h"
#include "helpers/tiny_model.h"
#include "stepward/rollout.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::block_bytes;
using testing::expect_same;
using testing::fork_now;
using testing::fork_of;
using testing::forward_logprobs;
using testing::joined;
using testing::kNever;
using testing::random_ids;
using testing::tiny_model;

Rollout::ValuesDone into(std::vector<float>& values) {
  return [&values](std::vector<float> got, std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
    values = std::move(got);
  };
}

// What the plain forward pass says of `tokens` after `prefix`.
std::vector<float> plain_logprobs(const Model& model, const std::vector<int32_t>& prefix,
                                  const std::vector<int32_t>& tokens) {
  const std::vector<float> all = forward_logprobs(model, testing::chain(joined(prefix, tokens)), {1});
  return {all.begin() + static_cast<int64_t>(prefix.size()), all.end()};
}

void expect_near(const std::vector<float>& got, const std::vector<float>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << "token " << i;
}

struct Variant {
  const char *family, *extra;
};
class RolloutTest : public ::testing::TestWithParam<Variant> {};

// Random fork, append, commit, release, score, readout and cancel on several trees, with and without sharing and under
// a budget that makes segments lose their keys and values, each result against the forward pass over its whole path.
TEST_P(RolloutTest, RandomVerbsEqualTheForwardPass) {
  const auto model = tiny_model(GetParam().family, GetParam().extra);
  struct Node {
    NodeId id;
    std::vector<int32_t> path;
  };
  for (int round = 0; round < 6; ++round) {
    std::mt19937 random(100 + round);
    RolloutOptions options;
    options.share = round % 3 != 2;
    options.step_tokens = round % 2 == 0 ? 7 : 512;
    if (round % 3 == 1) options.kv_budget_bytes = 12 * block_bytes(*model);
    Rollout rollout(*model, options);
    std::vector<Node> nodes;
    const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
    const auto drop = [&](size_t i) { nodes.erase(nodes.begin() + static_cast<int64_t>(i)); };
    int64_t checked = 0;
    for (int move = 0; move < 40; ++move) {
      const size_t kind = below(8);
      if (nodes.empty() || kind == 0) {
        const auto ids = random_ids(random, 1 + static_cast<int>(below(40)));
        nodes.push_back({rollout.open(ids), ids});
        continue;
      }
      const size_t at = below(nodes.size());
      const Node node = nodes[at];
      if (node.path.size() > 90) {
        rollout.release(node.id);
        drop(at);
      } else if (kind == 1) {
        const auto ids = random_ids(random, 1 + static_cast<int>(below(20)));
        nodes.push_back({rollout.append(node.id, ids), joined(node.path, ids)});
      } else if (kind == 2) {
        rollout.release(node.id);
        drop(at);
      } else if (kind <= 4) {
        const auto candidates = fork_now(rollout, fork_of(node.id, 3, move));
        for (const Candidate& candidate : candidates) {
          expect_near(candidate.logprobs, plain_logprobs(*model, node.path, candidate.tokens), 2e-5);
          ++checked;
        }
        const size_t kept = below(3);
        if (kind == 3) rollout.commit(candidates[kept].node);
        for (size_t c = 0; c < 3; ++c) {
          if (kind == 3 && c != kept) continue;
          nodes.push_back({candidates[c].node, joined(node.path, candidates[c].tokens)});
        }
      } else if (kind == 5) {
        const std::vector<std::vector<int32_t>> suffixes = {random_ids(random, 1), random_ids(random, 6)};
        std::vector<float> got;
        rollout.score(node.id, suffixes, 0, kNever, into(got));
        rollout.drain();
        expect_near(
            got,
            [&] {
              auto all = plain_logprobs(*model, node.path, suffixes[0]);
              const auto more = plain_logprobs(*model, node.path, suffixes[1]);
              all.insert(all.end(), more.begin(), more.end());
              return all;
            }(),
            2e-5);
      } else if (kind == 6) {
        const auto suffix = random_ids(random, static_cast<int>(below(4)));
        std::vector<float> got;
        rollout.readout(node.id, {suffix}, {3, 4}, 0, kNever, into(got));
        rollout.drain();
        const auto path = joined(node.path, suffix);
        expect_near(got, {plain_logprobs(*model, path, {3})[0], plain_logprobs(*model, path, {4})[0]}, 2e-5);
      } else {
        const auto cancel = std::make_shared<CancelFlag>();
        bool failed = false;
        rollout.fork(fork_of(node.id, 2, move), {}, 0, cancel,
                     [&](const std::vector<Candidate>& c, const std::exception_ptr& e) { failed = e && c.empty(); });
        for (size_t steps = below(4); steps > 0; --steps) rollout.step();
        cancel->cancel();
        rollout.drain();
        EXPECT_TRUE(failed);
      }
    }
    EXPECT_GT(checked, 0);
    for (const Node& node : nodes) rollout.release(node.id);
    EXPECT_EQ(rollout.counters().live_segments, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RolloutTest,
                         ::testing::Values(Variant{"llama", "\"attention_bias\": true, \"mlp_bias\": true"},
                                           Variant{"mistral", "\"sliding_window\": 5"},
                                           Variant{"qwen2", "\"tie_word_embeddings\": true"},
                                           Variant{"qwen3", "\"head_dim\": 16"}, Variant{"llama", "\"head_dim\": 40"}));

// A candidate's bits do not depend on what runs beside it, on who is cancelled, on sharing or on the budget.
TEST(Rollout, ACandidateIsTheSameAloneInABatchAndAfterItsNeighboursAreCancelled) {
  const auto model = tiny_model("qwen3", "\"max_position_embeddings\": 1024");
  std::mt19937 random(5);
  const auto header = random_ids(random, 300);  // more than a chunk
  std::vector<std::vector<int32_t>> problems;
  for (int i = 0; i < 50; ++i) problems.push_back(random_ids(random, 5 + i % 40));

  const auto run = [&](const RolloutOptions& options, const std::vector<size_t>& which, bool cancel_others) {
    Rollout rollout(*model, options);
    std::vector<std::vector<Candidate>> results(problems.size());
    std::vector<std::shared_ptr<CancelFlag>> flags;
    for (const size_t p : which) {
      const NodeId root = rollout.open(header), node = rollout.append(root, problems[p]);
      rollout.release(root);
      flags.push_back(std::make_shared<CancelFlag>());
      rollout.fork(fork_of(node, 4, p, 20), {}, static_cast<int64_t>(p), flags.back(),
                   [&results, p](std::vector<Candidate> c, const std::exception_ptr&) { results[p] = std::move(c); });
    }
    if (cancel_others) {
      for (int i = 0; i < 9; ++i) rollout.step();
      for (size_t i = 0; i < which.size(); ++i) {
        if (which[i] != 20) flags[i]->cancel();
      }
    }
    rollout.drain();
    return results[20];
  };
  std::vector<size_t> everyone(problems.size());
  for (size_t i = 0; i < everyone.size(); ++i) everyone[i] = i;
  const auto alone = run({}, {20}, false);
  ASSERT_EQ(alone.size(), 4u);
  RolloutOptions unshared;
  unshared.share = false;
  RolloutOptions tight;
  tight.kv_budget_bytes = 40 * block_bytes(*model);
  tight.step_tokens = 33;
  RolloutOptions ahead;  // what is drawn past a row's end leaves no trace
  ahead.steps_ahead = 4;
  for (const auto& other :
       {run({}, everyone, false), run({}, everyone, true), run(unshared, everyone, false), run(tight, everyone, false),
        run(ahead, everyone, false), run(ahead, everyone, true), run(ahead, {20}, false)}) {
    ASSERT_EQ(other.size(), 4u);
    for (size_t c = 0; c < 4; ++c) expect_same(alone[c], other[c]);
  }
}

TEST(Rollout, Bf16PanelsStayCloseToTheFloatWeights) {
  const auto model = tiny_model();
  RolloutOptions options;
  options.bf16_panels = true;
  Rollout rollout(*model, options);
  const NodeId root = rollout.open({1, 2, 3, 4, 5, 6});
  std::vector<float> got;
  rollout.score(root, {{7, 8, 9}}, 0, kNever, into(got));
  rollout.drain();
  const auto plain = plain_logprobs(*model, {1, 2, 3, 4, 5, 6}, {7, 8, 9});
  expect_near(got, plain, 0.1);
  EXPECT_NE(got, plain);
}

TEST(Rollout, SampledLogprobsAreTheScoresOfTheSameTokens) {
  const auto model = tiny_model();
  Rollout rollout(*model, {});
  const NodeId root = rollout.open({1, 2, 3});
  const auto candidates = fork_now(rollout, fork_of(root, 2, 1));
  std::vector<float> scores;
  rollout.score(root, {candidates[1].tokens}, 0, kNever, into(scores));
  rollout.drain();
  expect_near(scores, candidates[1].logprobs, 2e-6);
}

// w = 6, header 300, problem and steps 500, step 80, tail 20, both orders: 29,400 prompt tokens a problem without
// sharing. The header is every problem's.
TEST(Rollout, AJudgeTreeComputesEveryPrefixOnce) {
  const auto model = tiny_model("llama", "\"max_position_embeddings\": 2048");
  std::mt19937 random(1);
  Rollout rollout(*model, {});
  const auto header = random_ids(random, 300), tail = random_ids(random, 20);
  constexpr int64_t kProblems = 3;
  std::vector<float> got;
  for (int64_t p = 0; p < kProblems; ++p) {
    const NodeId head = rollout.open(header), trunk = rollout.append(head, random_ids(random, 500));
    std::vector<std::vector<int32_t>> steps;
    for (int i = 0; i < 6; ++i) steps.push_back(random_ids(random, 80));
    for (int a = 0; a < 6; ++a) {
      const NodeId first = rollout.append(trunk, steps[a]);
      for (int b = 0; b < 6; ++b) {
        if (a != b) rollout.readout(first, {joined(steps[b], tail)}, {1, 2}, p, kNever, into(got));
      }
      rollout.release(first);
    }
    rollout.release(trunk);
    rollout.release(head);
  }
  rollout.drain();
  const RolloutCounters counters = rollout.counters();
  EXPECT_EQ(counters.prompt_tokens_prefix_free, kProblems * 29400);
  EXPECT_EQ(counters.prompt_tokens_computed, 300 + kProblems * (500 + 6 * 80 + 30 * 100));
  EXPECT_LE(counters.prompt_tokens_computed, kProblems * 4100);
}

// Released paths stay for a look-up, but not for ever: a job that never asks again touches little more than it holds.
TEST(Rollout, MemoryOfReleasedPathsIsUsedAgain) {
  const auto model = tiny_model();
  RolloutOptions options;
  options.kv_budget_bytes = 1600 * block_bytes(*model);
  Rollout rollout(*model, options);
  std::mt19937 random(7);
  std::vector<float> got;
  for (int i = 0; i < 300; ++i) {
    const NodeId root = rollout.open(random_ids(random, 100));
    rollout.readout(root, {random_ids(random, 20)}, {1}, i, kNever, into(got));
    rollout.drain();
    rollout.release(root);
  }
  EXPECT_LE(rollout.counters().peak_kv_bytes, 120 * block_bytes(*model));  // a sixteenth of the budget, and one path
}

// Several requests at once, whose priorities, ends and cancellations fall as they will, under a budget that makes them
// take memory from each other.
TEST(Rollout, RequestsInFlightTogetherGiveWhatTheyGiveAlone) {
  const auto model = tiny_model("qwen3");
  for (int round = 0; round < 8; ++round) {
    std::mt19937 random(900 + round);
    RolloutOptions options;
    options.step_tokens = 5 + static_cast<int64_t>(random() % 40);
    options.steps_ahead = 1 + static_cast<int64_t>(random() % 5);
    options.kv_budget_bytes = (8 + static_cast<int64_t>(random() % 20)) * block_bytes(*model);
    Rollout rollout(*model, options);
    struct Asked {
      std::vector<int32_t> path;
      std::shared_ptr<CancelFlag> cancel = std::make_shared<CancelFlag>();
      std::vector<Candidate> candidates;
      std::vector<float> values;
      bool ended = false, failed = false;
    };
    std::vector<std::unique_ptr<Asked>> all;
    std::vector<int32_t> shared = random_ids(random, 20);
    for (int i = 0; i < 30; ++i) {
      const NodeId root = rollout.open(shared);
      const auto own = random_ids(random, 1 + static_cast<int>(random() % 30));
      const NodeId node = rollout.append(root, own);
      rollout.release(root);
      all.push_back(std::make_unique<Asked>());
      Asked& asked = *all.back();
      asked.path = joined(shared, own);
      const int64_t priority = static_cast<int64_t>(random() % 5);
      if (i % 3 == 0) {
        rollout.readout(node, {{}}, {3, 4}, priority, asked.cancel,
                        [&asked](std::vector<float> values, const std::exception_ptr& error) {
                          asked.values = std::move(values);
                          asked.ended = true;
                          asked.failed = error != nullptr;
                        });
      } else {
        rollout.fork(fork_of(node, 3, i), {}, priority, asked.cancel,
                     [&rollout, &asked](std::vector<Candidate> candidates, const std::exception_ptr& error) {
                       for (const Candidate& candidate : candidates) rollout.release(candidate.node);
                       asked.candidates = std::move(candidates);
                       asked.ended = true;
                       asked.failed = error != nullptr;
                     });
      }
      rollout.release(node);  // the request keeps it
      for (size_t steps = random() % 4; steps > 0; --steps) rollout.step();
      if (random() % 4 == 0) all[random() % all.size()]->cancel->cancel();
    }
    rollout.drain();
    for (const auto& asked : all) {
      ASSERT_TRUE(asked->ended);
      if (asked->failed) {
        EXPECT_TRUE(asked->cancel->cancelled());
        continue;
      }
      for (const Candidate& candidate : asked->candidates)
        expect_near(candidate.logprobs, plain_logprobs(*model, asked->path, candidate.tokens), 2e-5);
      if (!asked->values.empty()) expect_near({asked->values[0]}, plain_logprobs(*model, asked->path, {3}), 2e-5);
    }
    EXPECT_EQ(rollout.counters().live_segments, 0);
  }
}

TEST(Rollout, NewWeightsMakeEverythingStale) {
  const auto model = tiny_model();
  Rollout rollout(*model, {});
  const NodeId root = rollout.open({4, 5, 6, 7});
  fork_now(rollout, fork_of(root, 1, 1));
  {
    TrainerOptions options;
    options.optimizer = "sgd";
    Trainer trainer(*model, options);
    SftBatch batch{testing::chain({4, 5, 6, 7, 8}), {1.0f}, 4};
    at::AutoGradMode with_grad(true);
    trainer.accumulate(batch, CancelFlag());
    trainer.apply(0.5);
  }
  std::vector<float> got;
  rollout.score(root, {{9, 10}}, 0, kNever, into(got));
  rollout.drain();
  expect_near(got, plain_logprobs(*model, {4, 5, 6, 7}, {9, 10}), 2e-5);
}

TEST(Rollout, AFoundRootIsNotComputedAgain) {
  const auto model = tiny_model();
  Rollout rollout(*model, {});
  for (int i = 0; i < 3; ++i) {
    const NodeId root = rollout.open({1, 2, 3, 4, 5});
    std::vector<float> got;
    rollout.readout(root, {{}}, {7}, 0, kNever, into(got));
    rollout.drain();
    EXPECT_NEAR(got.at(0), plain_logprobs(*model, {1, 2, 3, 4, 5}, {7})[0], 1e-5);
    rollout.release(root);
  }
  EXPECT_EQ(rollout.counters().prompt_tokens_computed, 5);
  EXPECT_EQ(rollout.counters().hits, 2);
}

// Blocks for tokens that might have been drawn past a row's end are given back: a budget that just fits still does.
TEST(Rollout, StepsAheadTakeNoMemoryThatAPathNeeds) {
  const auto model = tiny_model();
  const auto sampled = [&](int64_t ahead, const std::vector<int32_t>& eos) {
    RolloutOptions options;
    options.steps_ahead = ahead;
    options.kv_budget_bytes = 3 * block_bytes(*model);
    Rollout rollout(*model, options);
    std::mt19937 random(3);
    const NodeId root = rollout.open(random_ids(random, 32));  // a block
    ForkRequest request = fork_of(root, 1, 5, 40);
    request.sampling.min_new_tokens = 31;
    request.sampling.eos_ids = eos;
    const std::vector<Candidate> first = fork_now(rollout, request);
    if (eos.empty() || first.empty()) return first;
    return fork_now(rollout, fork_of(first[0].node, 1, 6, 20));
  };
  // Ends with its 32nd token, the last of a block, while three steps ahead reserve a third block, which what follows
  // needs.
  const int32_t eos = sampled(1, {}).at(0).tokens.at(31);
  const auto expected = sampled(1, {eos}), got = sampled(3, {eos});
  ASSERT_EQ(expected.size(), 1u);
  ASSERT_EQ(got.size(), 1u);
  expect_same(got[0], expected[0]);
}

TEST(Rollout, ManyTreesLeaveNothingBehind) {
  const auto model = tiny_model();
  RolloutOptions options;
  options.kv_budget_bytes = 64 * block_bytes(*model);
  Rollout rollout(*model, options);
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    const NodeId root = rollout.open(random_ids(random, 10));
    const auto candidates = fork_now(rollout, fork_of(root, 3, i, 4));
    rollout.commit(candidates[0].node);
    rollout.release(candidates[0].node);
    rollout.release(root);
  }
  const RolloutCounters counters = rollout.counters();
  EXPECT_EQ(counters.live_segments, 0);
  EXPECT_LE(counters.cached_segments, 64);
  EXPECT_LE(counters.peak_kv_bytes, options.kv_budget_bytes);
  rollout.release_memory();
  EXPECT_EQ(rollout.counters().cached_segments, 0);
}

}  // namespace
}  // namespace stepward
