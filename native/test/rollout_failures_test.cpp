// The rollout engine when something goes wrong: bad arguments, too small a budget, NaN, and a step that fails. Who
// asked for it is told, and nothing else is touched.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <new>

#include <ATen/TensorOperators.h>
#include <ATen/ops/clone.h>

#include "core/rollout/state.h"
#include "helpers/rollout_requests.h"
#include "helpers/tiny_model.h"
#include "stepward/rollout.h"

namespace stepward {
namespace {

using testing::block_bytes;
using testing::expect_same;
using testing::fork_of;
using testing::kNever;
using testing::random_ids;
using testing::tiny_model;

// Of the error that the call throws; INTERNAL where it throws none.
template <typename Call>
ErrorCode code_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::INTERNAL;
}

TEST(RolloutFailures, BadArgumentsAreToldAtOnce) {
  const auto model = tiny_model();
  Rollout rollout(*model, {});
  EXPECT_EQ(code_of([&] { rollout.open({61}); }), ErrorCode::TOKEN_OUT_OF_RANGE);
  EXPECT_EQ(code_of([&] { rollout.open({}); }), ErrorCode::INVALID_ARGUMENT);
  EXPECT_EQ(code_of([&] { rollout.open(std::vector<int32_t>(129, 1)); }), ErrorCode::CONTEXT_TOO_LONG);
  EXPECT_EQ(code_of([&] { rollout.append(99, {1}); }), ErrorCode::HANDLE_INVALID);
  const NodeId root = rollout.open({1});
  EXPECT_EQ(code_of([&] { rollout.commit(root); }), ErrorCode::INVALID_ARGUMENT);
  rollout.release(root);
  EXPECT_EQ(code_of([&] { rollout.release(root); }), ErrorCode::HANDLE_INVALID);
}

TEST(RolloutFailures, APathThatCanNeverFitIsRefusedAndOthersGoOn) {
  const auto model = tiny_model();
  RolloutOptions options;
  options.kv_budget_bytes = 2 * block_bytes(*model);
  Rollout rollout(*model, options);
  const NodeId large = rollout.open(std::vector<int32_t>(100, 3)), small = rollout.open({1, 2});
  ErrorCode code = ErrorCode::INTERNAL;
  rollout.fork(fork_of(large, 1, 1), {}, 0, kNever,
               [&](const std::vector<Candidate>&, const std::exception_ptr& error) {
                 code = code_of([&] { std::rethrow_exception(error); });
               });
  std::vector<Candidate> got;
  rollout.fork(fork_of(small, 3, 1), {}, 1, kNever,
               [&](std::vector<Candidate> candidates, const std::exception_ptr&) { got = std::move(candidates); });
  rollout.drain();
  EXPECT_EQ(code, ErrorCode::OUT_OF_MEMORY);
  EXPECT_EQ(got.size(), 3u);
}

TEST(RolloutFailures, NanWeightsFailTheirRequestsAlone) {
  const auto model = tiny_model();
  model->weights().at("lm_head.weight").fill_(std::numeric_limits<float>::quiet_NaN());
  Rollout rollout(*model, {});
  const NodeId root = rollout.open({1, 2});
  ErrorCode code = ErrorCode::INTERNAL;
  rollout.fork(fork_of(root, 2, 1), {}, 0, kNever, [&](const std::vector<Candidate>&, const std::exception_ptr& error) {
    code = code_of([&] { std::rethrow_exception(error); });
  });
  rollout.drain();
  EXPECT_EQ(code, ErrorCode::NUMERICAL);
  EXPECT_TRUE(rollout.idle());
}

TEST(RolloutFailures, NanKeysAndValuesDoNotOutliveTheirRequest) {
  const auto model = tiny_model();
  at::Tensor weight = model->weights().at("model.layers.0.self_attn.v_proj.weight");
  const at::Tensor sound = weight.clone();
  Rollout rollout(*model, {});
  const auto read = [&] {
    const NodeId root = rollout.open({1, 2, 3});
    std::vector<float> got;
    std::exception_ptr failure;
    rollout.readout(root, {{}}, {5}, 0, kNever, [&](std::vector<float> values, const std::exception_ptr& error) {
      got = std::move(values);
      failure = error;
    });
    rollout.drain();
    rollout.release(root);
    return failure ? std::numeric_limits<float>::infinity() : got.at(0);
  };
  const float before = read();
  weight.fill_(std::numeric_limits<float>::quiet_NaN());
  model->weights_changed();
  EXPECT_EQ(read(), std::numeric_limits<float>::infinity());  // NUMERICAL, not a NaN to compare
  weight.copy_(sound);
  model->weights_changed();
  EXPECT_EQ(read(), before);  // in the very block
}

// The decoder of the CPU, one of whose calls fails as memory that runs out would.
class FailingDecoder final : public Decoder {
 public:
  FailingDecoder(const Model& model, int64_t* calls_left) : inner_(make_cpu_decoder(model)), calls_left_(calls_left) {}

  int64_t block_bytes() const override { return inner_->block_bytes(); }
  int64_t sharing_threshold() const override { return inner_->sharing_threshold(); }
  void load_weights() override { count(), inner_->load_weights(); }
  void release_memory() override { inner_->release_memory(); }
  void run(const StepPlan& plan) override { count(), inner_->run(plan); }
  int32_t store_hidden(int64_t row) override { return count(), inner_->store_hidden(row); }
  void free_hidden(int32_t slot) override { inner_->free_hidden(slot); }
  void draw(std::vector<DrawQuery>& queries) override { count(), inner_->draw(queries); }
  std::vector<float> logprobs(const std::vector<LogprobQuery>& queries) override {
    return count(), inner_->logprobs(queries);
  }

 private:
  void count() const {
    if ((*calls_left_)-- == 0) throw std::bad_alloc();
  }

  std::unique_ptr<Decoder> inner_;
  int64_t* calls_left_;
};

// Whichever call fails, all that is in flight fails with it, nothing of it is left in the tree, and the same requests
// then give what they give where nothing ever failed.
TEST(RolloutFailures, AStepThatFailsLeavesTheTreeAsItWas) {
  const auto model = tiny_model("qwen3");
  std::mt19937 random(11);
  const auto header = random_ids(random, 40), problem = random_ids(random, 9), suffix = random_ids(random, 5);
  struct Outcome {
    std::vector<Candidate> candidates;
    std::vector<float> scores, labels;
    int answered = 0, failed = 0;
  };
  for (const int64_t steps_ahead : {1, 3}) {
    RolloutOptions options;
    options.steps_ahead = steps_ahead;
    options.step_tokens = 16;  // prompts take several steps
    const auto ask = [&](Rollout& rollout, NodeId node) {
      Outcome outcome;
      const auto answered = [&outcome](const std::exception_ptr& error) {
        ++outcome.answered;
        if (error) ++outcome.failed;
      };
      rollout.fork(fork_of(node, 3, 7), {}, 0, kNever,
                   [&](std::vector<Candidate> candidates, const std::exception_ptr& error) {
                     answered(error);
                     outcome.candidates = std::move(candidates);
                   });
      rollout.score(node, {suffix}, 0, kNever, [&](std::vector<float> values, const std::exception_ptr& error) {
        answered(error);
        outcome.scores = std::move(values);
      });
      rollout.readout(node, {suffix, {}}, {3, 4}, 0, kNever,
                      [&](std::vector<float> values, const std::exception_ptr& error) {
                        answered(error);
                        outcome.labels = std::move(values);
                      });
      rollout.drain();
      EXPECT_EQ(outcome.answered, 3);
      for (const Candidate& candidate : outcome.candidates) rollout.release(candidate.node);
      return outcome;
    };
    Rollout sound(*model, options);
    const NodeId sound_root = sound.open(header);
    const Outcome expected = ask(sound, sound.append(sound_root, problem));
    ASSERT_EQ(expected.failed, 0);

    bool fails = true;
    int64_t tried = 0;
    for (; fails; ++tried) {
      SCOPED_TRACE(::testing::Message() << "call " << tried << " fails, " << steps_ahead << " steps at a time");
      int64_t calls_left = tried;
      Rollout rollout(
          std::make_unique<Rollout::State>(*model, options, std::make_unique<FailingDecoder>(*model, &calls_left)));
      const NodeId root = rollout.open(header), node = rollout.append(root, problem);
      const Outcome first = ask(rollout, node);
      fails = calls_left < 0;
      EXPECT_EQ(first.failed > 0, fails);
      EXPECT_TRUE(rollout.idle());
      EXPECT_EQ(rollout.counters().live_segments, 2);  // what the caller holds
      const Outcome again = fails ? ask(rollout, node) : first;
      EXPECT_EQ(again.failed, 0);
      EXPECT_EQ(again.scores, expected.scores);
      EXPECT_EQ(again.labels, expected.labels);
      ASSERT_EQ(again.candidates.size(), 3u);
      for (size_t c = 0; c < 3; ++c) expect_same(again.candidates[c], expected.candidates[c]);
      rollout.release(node);
      rollout.release(root);
      EXPECT_EQ(rollout.counters().live_segments, 0);
      if (HasFailure()) return;
    }
    EXPECT_GT(tried, 10);  // loading, prompts, drawing, reading
  }
}

}  // namespace
}  // namespace stepward
