// The engine's verbs over its tree and scheduler.
#include "stepward/rollout.h"

#include <cmath>
#include <limits>

#include <ATen/core/grad_mode.h>

#include "core/rollout/state.h"
#include "stepward/error.h"

namespace stepward {
namespace {

std::unique_ptr<Decoder> make_decoder(const Model& model, const RolloutOptions& options) {
#ifdef STEPWARD_CUDA
  if (model.device().is_cuda()) return make_cuda_decoder(model);
#endif
  return make_cpu_decoder(model, options.bf16_panels);
}

// Several results into one, in their order; the first failure is the whole's.
class Gather {
 public:
  Gather(size_t parts, Rollout::ValuesDone done) : values_(parts), left_(parts), done_(std::move(done)) {}

  void part(size_t index, std::vector<float> values, const std::exception_ptr& error) {
    values_[index] = std::move(values);
    if (error && !error_) error_ = error;
    if (--left_ > 0) return;
    std::vector<float> all;
    for (const auto& some : values_) all.insert(all.end(), some.begin(), some.end());
    done_(std::move(all), error_);
  }

 private:
  std::vector<std::vector<float>> values_;
  size_t left_;
  std::exception_ptr error_;
  Rollout::ValuesDone done_;
};

}  // namespace

std::shared_ptr<const Sampling> compile_sampling(const Model& model, const TokenBytes& token_bytes,
                                                 const SamplingOptions& options, uint64_t tree_key, int32_t step,
                                                 int32_t first_candidate) {
  const auto expect = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected ", expected, ", got ", got);
  };
  expect(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", "a finite number >= 0",
         options.temperature);
  expect(options.top_p > 0 && options.top_p <= 1, "topP", "a number in (0, 1]", options.top_p);
  expect(options.top_k >= 0, "topK", "an integer >= 0 (0: off)", options.top_k);
  expect(options.min_p >= 0 && options.min_p <= 1, "minP", "a number from 0 (off) to 1", options.min_p);
  expect(options.max_new_tokens >= 1, "maxNewTokens", "at least 1", options.max_new_tokens);
  expect(options.min_new_tokens >= 0 && options.min_new_tokens <= options.max_new_tokens, "minNewTokens",
         "0 to maxNewTokens", options.min_new_tokens);
  validate_ids("eosIds", options.eos_ids, model.config().vocab_size);
  return std::make_shared<const Sampling>(
      Sampling{options, StopText(token_bytes, options.stop),
               {options.temperature, options.top_k, options.top_p, options.min_p, options.seed}, tree_key,
               static_cast<uint32_t>(step), static_cast<uint32_t>(first_candidate)});
}

Rollout::State::State(const Model& m, const RolloutOptions& o) : State(m, o, make_decoder(m, o)) {}

Rollout::State::State(const Model& m, const RolloutOptions& o, std::unique_ptr<Decoder> d)
    : model(m),
      options(o),
      decoder(std::move(d)),
      tree(*decoder, o.kv_budget_bytes),
      scheduler(m, *decoder, tree, o) {}

Rollout::State::~State() = default;

Segment* Rollout::State::add_private(Segment* parent, const std::vector<int32_t>& tokens, const char* name) {
  if (tokens.empty()) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected at least one token, got none");
  validate_ids(name, tokens, model.config().vocab_size);
  const int64_t end = (parent ? parent->end() : 0) + static_cast<int64_t>(tokens.size());
  if (end > model.config().max_positions) {
    fail(ErrorCode::CONTEXT_TOO_LONG, name, ": the path has ", end, " tokens, more than the model's ",
         model.config().max_positions, " positions");
  }
  return tree.private_child(parent, tokens);
}

Segment* Rollout::State::add(Segment* parent, const std::vector<int32_t>& tokens, const char* name) {
  RolloutCounters& counters = scheduler.counters();
  if (options.share) {
    ++counters.lookups;
    if (Segment* found = tree.find(parent, tokens)) {
      if (found->complete()) ++counters.hits;
      tree.retain(found);
      return found;
    }
  }
  Segment* made = add_private(parent, tokens, name);
  if (options.share) tree.close(made);
  return made;
}

Segment* Rollout::State::held(NodeId node) const {
  const auto it = nodes_.find(node);
  if (it == nodes_.end())
    fail(ErrorCode::HANDLE_INVALID, "node ", node, ": expected a node that is held, it is unknown or was released");
  return it->second.segment;
}

NodeId Rollout::State::hold(Segment* segment, std::shared_ptr<std::vector<NodeId>> siblings) {
  nodes_.emplace(++last_node_, Held{segment, std::move(siblings)});
  return last_node_;
}

void Rollout::State::let_go(NodeId node) {
  Segment* segment = held(node);
  nodes_.erase(node);
  tree.release(segment);
}

std::unique_ptr<Task> Rollout::State::task(Task::Kind kind, Segment* node, int64_t priority,
                                           std::shared_ptr<const CancelFlag> cancel) {
  auto task = std::make_unique<Task>();
  task->kind = kind;
  task->node = node;
  task->priority = priority;
  task->cancel = std::move(cancel);
  return task;
}

void Rollout::State::score(Segment* segment, int64_t priority, std::shared_ptr<const CancelFlag> cancel,
                           ValuesDone done) {
  auto made = task(Task::Kind::score, segment, priority, std::move(cancel));
  made->values.assign(segment->tokens.size(), std::numeric_limits<float>::quiet_NaN());
  made->done = [this, segment, done = std::move(done)](Task& t, const std::exception_ptr& error) {
    tree.release(segment);
    done(std::move(t.values), error);
  };
  scheduler.counters().prompt_tokens_prefix_free += segment->end();
  scheduler.add(std::move(made));
}

void Rollout::State::readout(Segment* segment, const std::vector<int32_t>& labels, int64_t priority,
                             std::shared_ptr<const CancelFlag> cancel, ValuesDone done) {
  auto made = task(Task::Kind::readout, segment, priority, std::move(cancel));
  made->labels = labels;
  made->values.resize(labels.size());
  made->done = [this, segment, done = std::move(done)](Task& t, const std::exception_ptr& error) {
    tree.release(segment);
    done(std::move(t.values), error);
  };
  scheduler.counters().prompt_tokens_prefix_free += segment->end();
  scheduler.add(std::move(made));
}

void Rollout::State::sample(Segment* segment, std::shared_ptr<const Sampling> sampling, int32_t samples, bool keep,
                            int64_t priority, std::shared_ptr<const CancelFlag> cancel,
                            const std::function<void()>& row_done, ForkDone done) {
  if (segment->end() >= model.config().max_positions) {
    fail(ErrorCode::CONTEXT_TOO_LONG, "node: its path has ", segment->end(),
         " tokens, which leaves no room in the model's ", model.config().max_positions, " positions");
  }
  tree.retain(segment);  // until the task is over, whatever its caller does
  auto made = task(Task::Kind::sample, segment, priority, std::move(cancel));
  made->samples = samples;
  made->sampling = std::move(sampling);
  made->done = [this, segment, keep, row_done, done = std::move(done)](Task& t, const std::exception_ptr& error) {
    const auto siblings = std::make_shared<std::vector<NodeId>>();
    std::vector<Candidate> candidates;
    for (const SampleRow& row : t.rows) {
      if (error || !keep) {
        if (!error) candidates.push_back(candidate_of(row));
        tree.release(row.segment);
        continue;
      }
      tree.close(row.segment);
      candidates.push_back(candidate_of(row));
      candidates.back().node = hold(row.segment, siblings);
      siblings->push_back(candidates.back().node);
    }
    tree.release(segment);
    if (row_done) {
      for (size_t r = 0; r < candidates.size(); ++r) row_done();
    }
    done(std::move(candidates), error);
  };
  scheduler.counters().prompt_tokens_prefix_free += samples * segment->end();
  scheduler.add(std::move(made));
}

Candidate Rollout::State::candidate_of(const SampleRow& row) {
  Candidate candidate;
  candidate.finish = row.finish;
  for (const kernels::Sample& sample : row.drawn) {
    candidate.tokens.push_back(sample.id);
    candidate.logprobs.push_back(sample.logprob);
    candidate.sampling_logprobs.push_back(sample.sampling_logprob);
    candidate.log_kept.push_back(sample.log_kept);
  }
  return candidate;
}

template <typename Add, typename Ask>
void Rollout::State::each_suffix(const std::vector<std::vector<int32_t>>& suffixes, const Add& add, ValuesDone done,
                                 const Ask& ask) {
  std::vector<Segment*> segments;
  try {
    for (const auto& suffix : suffixes) segments.push_back(add(suffix));
  } catch (...) {
    for (Segment* segment : segments) tree.release(segment);
    throw;
  }
  if (segments.empty()) return done({}, nullptr);
  const auto gather = std::make_shared<Gather>(segments.size(), std::move(done));
  for (size_t i = 0; i < segments.size(); ++i) {
    ask(segments[i], [gather, i](std::vector<float> values, std::exception_ptr error) {
      gather->part(i, std::move(values), error);
    });
  }
}

void Rollout::State::follow_weights() {
  if (loaded_ && weights_version_ == model.weights_version()) return;
  decoder->load_weights();
  tree.invalidate();
  loaded_ = true;
  weights_version_ = model.weights_version();
}

bool Rollout::State::step() {
  at::NoGradGuard no_grad;
  if (scheduler.idle()) return false;
  try {
    follow_weights();
  } catch (...) {
    loaded_ = false;
    scheduler.fail_all(std::current_exception());
    return true;
  }
  return scheduler.step();
}

Rollout::Rollout(const Model& model, const RolloutOptions& options) {
  if (options.kv_budget_bytes < 1)
    fail(ErrorCode::INVALID_ARGUMENT, "kvBudgetBytes: expected at least 1, got ", options.kv_budget_bytes);
  if (options.step_tokens < 1)
    fail(ErrorCode::INVALID_ARGUMENT, "stepTokens: expected at least 1, got ", options.step_tokens);
  state_ = std::make_unique<State>(model, options);
}

Rollout::Rollout(std::unique_ptr<State> state) : state_(std::move(state)) {}

Rollout::~Rollout() {
  if (state_) state_->scheduler.fail_all(std::make_exception_ptr(Error(ErrorCode::CANCELLED, "the engine is ending")));
}

NodeId Rollout::open(const std::vector<int32_t>& tokens) {
  return state_->hold(state_->add(nullptr, tokens, "tokens"));
}

NodeId Rollout::append(NodeId node, const std::vector<int32_t>& tokens) {
  return state_->hold(state_->add(state_->held(node), tokens, "tokens"));
}

void Rollout::commit(NodeId node) {
  state_->held(node);
  const auto siblings = state_->nodes_.at(node).siblings;
  if (!siblings) fail(ErrorCode::INVALID_ARGUMENT, "node ", node, ": expected a candidate of a fork");
  for (const NodeId other : *siblings) {
    if (other != node && state_->nodes_.contains(other)) state_->let_go(other);
  }
}

void Rollout::release(NodeId node) {
  state_->let_go(node);
}

void Rollout::fork(const ForkRequest& request, const TokenBytes& token_bytes, int64_t priority,
                   std::shared_ptr<const CancelFlag> cancel, ForkDone done) {
  if (request.samples < 1) fail(ErrorCode::INVALID_ARGUMENT, "samples: expected at least 1, got ", request.samples);
  Segment* segment = state_->held(request.node);
  auto sampling = compile_sampling(state_->model, token_bytes, request.sampling, request.tree_key, request.step,
                                   request.first_candidate);
  state_->sample(segment, std::move(sampling), request.samples, true, priority, std::move(cancel), {},
                 std::move(done));
}

void Rollout::score(NodeId node, const std::vector<std::vector<int32_t>>& suffixes, int64_t priority,
                    std::shared_ptr<const CancelFlag> cancel, ValuesDone done) {
  Segment* parent = state_->held(node);
  const auto add = [&](const auto& suffix) { return state_->add_private(parent, suffix, "suffix"); };
  state_->each_suffix(suffixes, add, std::move(done), [&](Segment* segment, ValuesDone end) {
    state_->score(segment, priority, cancel, std::move(end));
  });
}

void Rollout::readout(NodeId node, const std::vector<std::vector<int32_t>>& suffixes, const std::vector<int32_t>& labels,
                      int64_t priority, std::shared_ptr<const CancelFlag> cancel, ValuesDone done) {
  Segment* parent = state_->held(node);
  validate_ids("labels", labels, state_->model.config().vocab_size);
  const auto add = [&](const auto& suffix) {
    if (!suffix.empty()) return state_->add(parent, suffix, "suffix");
    state_->tree.retain(parent);
    return parent;
  };
  state_->each_suffix(suffixes, add, std::move(done), [&](Segment* segment, ValuesDone end) {
    state_->readout(segment, labels, priority, cancel, std::move(end));
  });
}

bool Rollout::step() {
  return state_->step();
}

bool Rollout::idle() const {
  return state_->scheduler.idle();
}

void Rollout::drain() {
  while (step()) {
  }
}

void Rollout::drop_cancelled() {
  state_->scheduler.drop_cancelled();
}

void Rollout::release_memory() {
  drain();
  state_->tree.invalidate();
  state_->tree.drop_cache();
  state_->decoder->release_memory();
  state_->loaded_ = false;
}

RolloutCounters Rollout::counters() const {
  RolloutCounters counters = state_->scheduler.counters();
  const KvPool& pool = state_->tree.pool();
  counters.evicted_tokens = state_->tree.evicted_tokens();
  counters.peak_kv_bytes = pool.peak_blocks() * pool.block_bytes();
  counters.live_segments = state_->tree.live();
  counters.cached_segments = state_->tree.cached();
  return counters;
}

void Rollout::reset_counters() {
  state_->scheduler.counters() = RolloutCounters();
  state_->tree.reset_counters();
}

}  // namespace stepward
