// Sampling continuations of tree nodes with a KV cache, and reading next-token probabilities at tree nodes.
#pragma once

#include <cstdint>
#include <functional>
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

struct GenerateRequest {
  Forest forest;
  std::vector<int32_t> nodes;  // [N] segments to continue after; shared prefixes are computed once
  int32_t samples = 1;         // rows per node
  uint64_t seed = 0;
  std::vector<uint64_t> tree_keys;  // [N] random stream of each node's tree
  std::vector<int32_t> steps;       // [N] step index within the tree, part of the random stream
  int32_t first_candidate = 0;      // sample s of a node is candidate first_candidate + s
  float temperature = 1.0f, top_p = 1.0f;
  int32_t top_k = 0;
  int32_t min_new_tokens = 0, max_new_tokens = 256;
  std::vector<int32_t> eos_ids;
  std::vector<std::string> stop;  // a row ends with the token after which its new text contains one of these, once that
                                  // text holds a non-blank character before it
};

enum class Finish : uint8_t { stop = 0, eos = 1, length = 2 };

struct GenerateResult {
  std::vector<int32_t> tokens;   // all rows end to end; row r = node * samples + sample; EOS and stop tokens included
  std::vector<int64_t> offsets;  // [N * samples + 1]
  std::vector<float> logprobs;   // [tokens] raw: temperature 1, nothing truncated
  std::vector<float> sampling_logprobs;  // [tokens] of the distribution drawn from
  std::vector<float> log_kept;           // [tokens] log of the mass top-k and top-p kept
  std::vector<Finish> finish;            // [N * samples]
  int64_t computed_tokens = 0;           // prompt tokens run through the model
  int64_t prefix_free_tokens = 0;        // what an engine without prefix sharing would run: path length per row
};

// `progress(rows_done)` is called between decode steps. Throws CANCELLED, CONTEXT_TOO_LONG, NUMERICAL and what
// validate_forest throws. A row also ends (length) at the model's last position.
GenerateResult generate(const Model& model, const TokenBytes& token_bytes, const GenerateRequest& request,
                        const CancelFlag& cancel, int64_t kv_budget_bytes,
                        const std::function<void(int64_t)>& progress = {});

struct ReadoutResult {
  std::vector<float> logprobs;  // [N, labels] natural log-prob of each label as the next token
  int64_t computed_tokens = 0, prefix_free_tokens = 0;
};

// One forward pass over the forest, then the labels' log-probs after each of `nodes` [N]. Throws CANCELLED,
// INVALID_ARGUMENT (a node that is no segment or has no token), TOKEN_OUT_OF_RANGE and what validate_forest throws.
ReadoutResult readout(const Model& model, const Forest& forest, const std::vector<int32_t>& nodes,
                      const std::vector<int32_t>& labels, const CancelFlag& cancel);

}  // namespace stepward
