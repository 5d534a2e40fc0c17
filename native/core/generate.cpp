// Batched sampling with a KV cache. Rows (a node and a sample of it) are taken in waves that fit the cache's budget: a
// wave prefills the paths of its nodes once, copies them into its rows, and decodes until every row has ended.
#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>

#include "core/decode_wave.h"
#include "stepward/error.h"
#include "stepward/rollout.h"

namespace stepward {
namespace {

constexpr int64_t kMaxRows = 1024;                    // rows of a wave
constexpr int64_t kMaxLogitBytes = int64_t{1} << 28;  // of the [rows, vocab] logits of a decode step

void check(const Model& model, const GenerateRequest& request) {
  const ModelConfig& config = model.config();
  validate_forest(request.forest, config.vocab_size, config.max_positions);
  const auto expect = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected ", expected, ", got ", got);
  };
  expect(request.samples >= 1, "samples", "at least 1", request.samples);
  expect(request.temperature >= 0 && std::isfinite(request.temperature), "temperature", "a finite number >= 0",
         request.temperature);
  expect(request.top_p > 0 && request.top_p <= 1, "topP", "a number in (0, 1]", request.top_p);
  expect(request.top_k >= 0, "topK", "an integer >= 0 (0: off)", request.top_k);
  expect(request.max_new_tokens >= 1, "maxNewTokens", "at least 1", request.max_new_tokens);
  expect(request.min_new_tokens >= 0 && request.min_new_tokens <= request.max_new_tokens, "minNewTokens",
         "0 to maxNewTokens", request.min_new_tokens);
  expect(request.tree_keys.size() == request.nodes.size(), "treeKeys", "one entry per node", request.tree_keys.size());
  expect(request.steps.size() == request.nodes.size(), "steps", "one entry per node", request.steps.size());
  validate_ids("eosIds", request.eos_ids, config.vocab_size);
  validate_nodes(request.forest, request.nodes);
}

}  // namespace

GenerateResult generate(const Model& model, const TokenBytes& token_bytes, const GenerateRequest& request,
                        const CancelFlag& cancel, int64_t kv_budget_bytes,
                        const std::function<void(int64_t)>& progress) {
  at::NoGradGuard no_grad;
  check(model, request);
  const StopText stop(token_bytes, request.stop);
  const PackedForest packed = pack_forest(request.forest);
  const int64_t samples = request.samples, total = static_cast<int64_t>(request.nodes.size()) * samples;
  const int64_t max_rows = std::max<int64_t>(1, std::min(kMaxRows, kMaxLogitBytes / (4 * model.config().vocab_size)));

  GenerateResult result;
  std::vector<DecodeRow> done(total);
  result.finish.resize(total);
  int64_t rows_done = 0;
  for (int64_t next = 0; next < total;) {
    std::vector<DecodeRow> rows;
    int64_t longest = 0;
    for (; next < total && static_cast<int64_t>(rows.size()) < max_rows; ++next) {
      DecodeRow row;
      row.index = next;
      row.node = static_cast<int32_t>(next / samples);
      const int32_t node = request.nodes[row.node];
      row.prompt_tokens = packed.start[node] + request.forest.offsets[node + 1] - request.forest.offsets[node];
      if (row.prompt_tokens == 0)
        fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", row.node, " has no token before it to continue from");
      if (row.prompt_tokens >= model.config().max_positions) {
        fail(ErrorCode::CONTEXT_TOO_LONG, "nodes: entry ", row.node, " has ", row.prompt_tokens,
             " tokens, which leaves no room in the model's ", model.config().max_positions, " positions");
      }
      const int64_t longer = std::max(longest, row.prompt_tokens);
      const int64_t row_tokens = std::min(longer + request.max_new_tokens, model.config().max_positions);
      const int64_t bytes = (static_cast<int64_t>(rows.size()) + 1) * row_tokens * RowCache::bytes_per_token(model);
      if (!rows.empty() && bytes > kv_budget_bytes) break;
      longest = longer;
      result.prefix_free_tokens += row.prompt_tokens;
      rows.push_back(std::move(row));
    }
    DecodeWave wave(model, request, stop, std::move(rows), cancel);
    result.computed_tokens += wave.run([&](DecodeRow& row, Finish finish) {
      result.finish[row.index] = finish;
      const int64_t index = row.index;
      done[index] = std::move(row);
      if (progress) progress(++rows_done);
    });
  }

  result.offsets.push_back(0);
  for (const DecodeRow& row : done) {
    for (const kernels::Sample& sample : row.drawn) {
      result.tokens.push_back(sample.id);
      result.logprobs.push_back(sample.logprob);
      result.sampling_logprobs.push_back(sample.sampling_logprob);
      result.log_kept.push_back(sample.log_kept);
    }
    result.offsets.push_back(static_cast<int64_t>(result.tokens.size()));
  }
  return result;
}

}  // namespace stepward
