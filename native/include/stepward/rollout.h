// The rollout engine: sampling, scoring and judging over one token tree whose keys and values are computed once per
// distinct prefix and kept while there is room. Requests of any number of trees run together, a step at a time; what a
// request returns depends on its own path, options and seed alone, not on what runs beside it, on what is cached, or on
// how the work was cut up. (On CUDA matrix products may differ in the last bits with the number of rows.)
// Not thread-safe: one thread owns an engine.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stepward/cancel.h"
#include "stepward/forest.h"
#include "stepward/model.h"

namespace stepward {

// Text of every token id, needed only for stop texts: bytes[offsets[id] .. offsets[id+1]).
struct TokenBytes {
  std::string bytes;
  std::vector<int64_t> offsets;  // [vocab+1], or empty
};

struct SamplingOptions {
  uint64_t seed = 0;
  float temperature = 1.0f, top_p = 1.0f;  // temperature 0: greedy
  int32_t top_k = 0;                       // 0: off
  float min_p = 0.0f;                      // 0: off
  int32_t min_new_tokens = 0, max_new_tokens = 256;
  std::vector<int32_t> eos_ids;
  std::vector<std::string> stop;  // a row ends with the token after which its new text contains one of these, once that
                                  // text holds a non-blank character before it
};

enum class Finish : uint8_t { stop = 0, eos = 1, length = 2 };

// A segment of the engine's tree that the caller holds.
using NodeId = int64_t;

struct Candidate {
  NodeId node = 0;                       // what was sampled, to continue from or to release; 0 where it was not kept
  std::vector<int32_t> tokens;           // EOS and stop tokens included
  std::vector<float> logprobs;           // [tokens] raw: temperature 1, nothing truncated
  std::vector<float> sampling_logprobs;  // [tokens] of the distribution drawn from
  std::vector<float> log_kept;           // [tokens] log of the mass that top-k, top-p and min-p kept
  Finish finish = Finish::length;
};

struct ForkRequest {
  NodeId node = 0;
  int32_t samples = 1;
  SamplingOptions sampling;
  // Random stream: sample s of the fork is candidate first_candidate + s of this step of this tree.
  uint64_t tree_key = 0;
  int32_t step = 0, first_candidate = 0;
};

struct RolloutOptions {
  int64_t kv_budget_bytes = int64_t{2} << 30;
  // Off: a chunk of keys and values is read once for each row below it, and nothing is looked up. For measurements.
  bool share = true;
  // A float32 model's weights are read as bfloat16, with float32 arithmetic (CPU): half the memory traffic where few
  // rows are decoded, at the price of rounded weights. bfloat16 models are not concerned.
  bool bf16_panels = false;
  // Prompt tokens of one step: what a cancelled request or another's next token may have to wait for.
  int64_t step_tokens = 1024;
  // Tokens to draw of every row before looking for ends, while nothing but rows that continue is in flight; what was
  // drawn past an end is dropped. 0: as the device likes it best, 1 on the CPU.
  int64_t steps_ahead = 0;
};

// Work done since the engine was made, or since reset_counters().
struct RolloutCounters {
  int64_t prompt_tokens_computed = 0;     // run through the model, sampled tokens apart
  int64_t prompt_tokens_prefix_free = 0;  // what an engine without sharing would run: the whole path of every row
  int64_t sampled_tokens = 0;             // drawn
  int64_t evicted_tokens = 0;             // needed or held, whose keys and values were taken away under the budget
  int64_t lookups = 0, hits = 0;          // of segments by their tokens, and those found with all computed
  int64_t steps = 0, decode_steps = 0;    // all, and those with rows that continue a sample
  int64_t decode_rows = 0;                // rows of such a kind, over all steps
  double prefill_seconds = 0, decode_seconds = 0;  // a mixed step's time is split by its rows
  int64_t peak_kv_bytes = 0;
  int64_t live_segments = 0, cached_segments = 0;  // now
};

class Rollout {
 public:
  class State;

  Rollout(const Model& model, const RolloutOptions& options);
  // Over parts put together elsewhere: a decoder of one's own (core/rollout/state.h).
  explicit Rollout(std::unique_ptr<State> state);
  ~Rollout();

  // ---- The tree. Throws TOKEN_OUT_OF_RANGE, CONTEXT_TOO_LONG, INVALID_ARGUMENT (no token), HANDLE_INVALID (no such
  // node).

  // The root with these tokens; one that is there already is found again.
  NodeId open(const std::vector<int32_t>& tokens);
  // The segment with these tokens after `node`; nothing is computed before it is needed.
  NodeId append(NodeId node, const std::vector<int32_t>& tokens);
  // Keeps `node`, a candidate of a fork, and releases the other candidates of that fork that are still held.
  void commit(NodeId node);
  void release(NodeId node);

  // ---- Requests. `done` is called once, from step(), drain() or cancel_requests(), with a result or a failure
  // (CANCELLED, NUMERICAL, OUT_OF_MEMORY). Lower `priority` first: give a tree's requests one number and finish open
  // trees first. Arguments are checked at once, and throw.

  // `token_bytes` must outlive the request.
  using ForkDone = std::function<void(std::vector<Candidate>, std::exception_ptr)>;
  void fork(const ForkRequest& request, const TokenBytes& token_bytes, int64_t priority,
            std::shared_ptr<const CancelFlag> cancel, ForkDone done);

  // Log-probs of all tokens of the suffixes, end to end, each suffix on its own after `node` [tokens]; or of one label
  // after the other behind each suffix [suffixes, labels].
  using ValuesDone = std::function<void(std::vector<float>, std::exception_ptr)>;
  void score(NodeId node, const std::vector<std::vector<int32_t>>& suffixes, int64_t priority,
             std::shared_ptr<const CancelFlag> cancel, ValuesDone done);
  void readout(NodeId node, const std::vector<std::vector<int32_t>>& suffixes, const std::vector<int32_t>& labels,
               int64_t priority, std::shared_ptr<const CancelFlag> cancel, ValuesDone done);

  // Runs one step: at most step_tokens prompt tokens and one token of each row that is being sampled. False when there
  // was nothing to do. A step that fails leaves the tree as it was.
  bool step();
  bool idle() const;
  void drain();
  // Fails the requests whose flag is set, now.
  void drop_cancelled();

  // Gives back keys, values and packed weights; held nodes are computed again when they are needed.
  void release_memory();

  RolloutCounters counters() const;
  void reset_counters();

  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// ---- Whole forests at once, over the same engine. Each runs until it has its answer, and a failure or cancellation
// fails whatever else is in flight: call them on an idle engine.

struct GenerateRequest {
  Forest forest;
  std::vector<int32_t> nodes;       // [N] segments to continue after
  int32_t samples = 1;              // rows per node
  std::vector<uint64_t> tree_keys;  // [N] random stream of each node's tree
  std::vector<int32_t> steps;       // [N] step index within the tree, part of the random stream
  int32_t first_candidate = 0;      // sample s of a node is candidate first_candidate + s
  SamplingOptions sampling;
};

struct GenerateResult {
  std::vector<Candidate> rows;     // [N * samples]; row r = node * samples + sample
  int64_t computed_tokens = 0;     // prompt tokens run through the model
  int64_t prefix_free_tokens = 0;  // what an engine without prefix sharing would run: path length per row
};

// `progress(rows_done)` is called between steps. Throws CANCELLED, CONTEXT_TOO_LONG, NUMERICAL, OUT_OF_MEMORY and what
// validate_forest throws. A row also ends (length) at the model's last position.
GenerateResult generate(Rollout& rollout, const TokenBytes& token_bytes, const GenerateRequest& request,
                        const std::shared_ptr<const CancelFlag>& cancel,
                        const std::function<void(int64_t)>& progress = {});

struct ReadoutResult {
  std::vector<float> logprobs;  // [N, labels] natural log-prob of each label as the next token
  int64_t computed_tokens = 0, prefix_free_tokens = 0;
};

// The labels' log-probs after each of `nodes` [N]. Throws CANCELLED, INVALID_ARGUMENT (a node that is no segment or has
// no token), TOKEN_OUT_OF_RANGE and what validate_forest throws.
ReadoutResult readout(Rollout& rollout, const Forest& forest, const std::vector<int32_t>& nodes,
                      const std::vector<int32_t>& labels, const std::shared_ptr<const CancelFlag>& cancel);

struct ScoreResult {
  std::vector<float> logprobs;  // [T] NaN where a token was not scored
  int64_t computed_tokens = 0;
};

// Log-probs of all tokens of the segments marked in `scored` [S], each conditioned on its path. A root's first token
// has none (nothing predicts it).
ScoreResult score(Rollout& rollout, const Forest& forest, const std::vector<uint8_t>& scored,
                  const std::shared_ptr<const CancelFlag>& cancel);

}  // namespace stepward
