// Whole forests through the engine: their segments join its tree, their nodes become requests, and the steps are run until
// all are answered.
#include <exception>
#include <limits>

#include "core/rollout/state.h"
#include "stepward/error.h"
#include "stepward/rollout.h"

namespace stepward {
namespace {

// The segments of a forest in the engine's tree, held while this lives. An empty segment is the one above it.
class Planted {
 public:
  Planted(Rollout::State& state, const Forest& forest, const std::vector<uint8_t>* scored = nullptr) : state_(state) {
    try {
      int64_t tree = -1;
      for (int64_t s = 0; s < forest.num_segments(); ++s) {
        const bool root = forest.parents[s] < 0;
        if (root) ++tree;
        trees_.push_back(tree);
        Segment* parent = root ? nullptr : segments_[forest.parents[s]];
        const std::vector<int32_t> tokens(forest.tokens.begin() + forest.offsets[s],
                                          forest.tokens.begin() + forest.offsets[s + 1]);
        const bool is_scored = scored != nullptr && (*scored)[s] != 0;
        if (tokens.empty()) {
          if (parent != nullptr) state.tree.retain(parent);
          segments_.push_back(parent);
        } else {
          segments_.push_back(is_scored ? state.add_private(parent, tokens, "tokens")
                                        : state.add(parent, tokens, "tokens"));
        }
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~Planted() { release(); }
  Planted(const Planted&) = delete;

  Segment* operator[](int64_t segment) const { return segments_[segment]; }
  int64_t tree(int64_t segment) const { return trees_[segment]; }

 private:
  void release() {
    for (auto it = segments_.rbegin(); it != segments_.rend(); ++it) {
      if (*it != nullptr) state_.tree.release(*it);
    }
    segments_.clear();
  }

  Rollout::State& state_;
  std::vector<Segment*> segments_;
  std::vector<int64_t> trees_;
};

// Runs until nothing is in flight, then rethrows the first failure. A failure or a cancellation ends the whole job, and
// nothing of it is left in flight when this ends.
class Run {
 public:
  Run(Rollout::State& state, std::shared_ptr<const CancelFlag> cancel) : state_(state), cancel_(std::move(cancel)) {}
  ~Run() { state_.scheduler.fail_all(std::make_exception_ptr(Error(ErrorCode::CANCELLED, "the work was given up"))); }
  Run(const Run&) = delete;

  void failed(const std::exception_ptr& error) {
    if (error && !error_) error_ = error;
  }
  template <typename Between>
  void finish(const Between& between) {
    if (cancel_) cancel_->check();
    while (!error_ && state_.step()) between();
    if (error_) std::rethrow_exception(error_);
  }
  void finish() {
    finish([] {});
  }

 private:
  Rollout::State& state_;
  std::shared_ptr<const CancelFlag> cancel_;
  std::exception_ptr error_;
};

void check_forest(const Model& model, const Forest& forest) {
  validate_forest(forest, model.config().vocab_size, model.config().max_positions);
}

}  // namespace

GenerateResult generate(Rollout& rollout, const TokenBytes& token_bytes, const GenerateRequest& request,
                        const std::shared_ptr<const CancelFlag>& cancel,
                        const std::function<void(int64_t)>& progress) {
  Rollout::State& state = rollout.state();
  const auto expect = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected ", expected, ", got ", got);
  };
  check_forest(state.model, request.forest);
  expect(request.samples >= 1, "samples", "at least 1", request.samples);
  expect(request.tree_keys.size() == request.nodes.size(), "treeKeys", "one entry per node", request.tree_keys.size());
  expect(request.steps.size() == request.nodes.size(), "steps", "one entry per node", request.steps.size());
  validate_nodes(request.forest, request.nodes);
  const Planted planted(state, request.forest);
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    const Segment* node = planted[request.nodes[i]];
    if (node == nullptr)
      fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", i, " has no token before it to continue from");
    if (node->end() >= state.model.config().max_positions) {
      fail(ErrorCode::CONTEXT_TOO_LONG, "nodes: entry ", i, " has ", node->end(),
           " tokens, which leaves no room in the model's ", state.model.config().max_positions, " positions");
    }
  }

  GenerateResult result;
  result.rows.resize(request.nodes.size() * request.samples);
  const RolloutCounters before = state.scheduler.counters();
  Run run(state, cancel);
  int64_t rows_done = 0;
  const size_t samples = static_cast<size_t>(request.samples);
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    auto sampling = compile_sampling(state.model, token_bytes, request.sampling, request.tree_keys[i],
                                     request.steps[i], request.first_candidate);
    state.sample(
        planted[request.nodes[i]], std::move(sampling), request.samples, false, planted.tree(request.nodes[i]), cancel,
        [&] { ++rows_done; },
        [&, i](std::vector<Candidate> candidates, const std::exception_ptr& error) {
          run.failed(error);
          for (size_t s = 0; s < candidates.size(); ++s) result.rows[i * samples + s] = std::move(candidates[s]);
        });
  }
  run.finish([&] {
    if (progress) progress(rows_done);
  });
  const RolloutCounters& after = state.scheduler.counters();
  result.computed_tokens = after.prompt_tokens_computed - before.prompt_tokens_computed;
  result.prefix_free_tokens = after.prompt_tokens_prefix_free - before.prompt_tokens_prefix_free;
  return result;
}

ReadoutResult readout(Rollout& rollout, const Forest& forest, const std::vector<int32_t>& nodes,
                      const std::vector<int32_t>& labels, const std::shared_ptr<const CancelFlag>& cancel) {
  Rollout::State& state = rollout.state();
  check_forest(state.model, forest);
  validate_ids("labels", labels, state.model.config().vocab_size);
  validate_nodes(forest, nodes);
  const Planted planted(state, forest);
  ReadoutResult result;
  result.logprobs.resize(nodes.size() * labels.size());
  const RolloutCounters before = state.scheduler.counters();
  Run run(state, cancel);
  for (size_t i = 0; i < nodes.size(); ++i) {
    Segment* node = planted[nodes[i]];
    if (node == nullptr) {
      run.failed(std::make_exception_ptr(Error(
          ErrorCode::INVALID_ARGUMENT, "nodes: entry " + std::to_string(i) + " has no token before it to read after")));
      break;
    }
    state.tree.retain(node);
    state.readout(node, labels, planted.tree(nodes[i]), cancel,
                  [&, i](const std::vector<float>& values, const std::exception_ptr& error) {
                    run.failed(error);
                    std::copy(values.begin(), values.end(), result.logprobs.begin() + i * labels.size());
                  });
  }
  run.finish();
  const RolloutCounters& after = state.scheduler.counters();
  result.computed_tokens = after.prompt_tokens_computed - before.prompt_tokens_computed;
  result.prefix_free_tokens = after.prompt_tokens_prefix_free - before.prompt_tokens_prefix_free;
  return result;
}

ScoreResult score(Rollout& rollout, const Forest& forest, const std::vector<uint8_t>& scored,
                  const std::shared_ptr<const CancelFlag>& cancel) {
  Rollout::State& state = rollout.state();
  check_forest(state.model, forest);
  if (static_cast<int64_t>(scored.size()) != forest.num_segments()) {
    fail(ErrorCode::INVALID_ARGUMENT, "scored: expected one entry per segment (", forest.num_segments(), "), got ",
         scored.size());
  }
  const Planted planted(state, forest, &scored);
  ScoreResult result;
  result.logprobs.assign(forest.tokens.size(), std::numeric_limits<float>::quiet_NaN());
  const RolloutCounters before = state.scheduler.counters();
  Run run(state, cancel);
  for (int64_t s = 0; s < forest.num_segments(); ++s) {
    if (!scored[s] || forest.offsets[s] == forest.offsets[s + 1]) continue;
    state.tree.retain(planted[s]);
    state.score(planted[s], planted.tree(s), cancel,
                [&, s](const std::vector<float>& values, const std::exception_ptr& error) {
                  run.failed(error);
                  std::copy(values.begin(), values.end(), result.logprobs.begin() + forest.offsets[s]);
                });
  }
  run.finish();
  result.computed_tokens = state.scheduler.counters().prompt_tokens_computed - before.prompt_tokens_computed;
  return result;
}

}  // namespace stepward
