// Batched sampling with a KV cache. Rows (a node and a sample of it) are taken in waves that fit the cache's budget: a
// wave prefills the paths of its nodes once, copies them into its rows, and decodes until every row has ended.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>

#include "core/row_cache.h"
#include "core/sample_rows.h"
#include "core/stop_text.h"
#include "core/tensors.h"
#include "stepward/error.h"
#include "stepward/rollout.h"

namespace stepward {
namespace {

constexpr int64_t kPrefillTokens = 8192;             // tokens of one prefill pass, where trees allow
constexpr int64_t kMaxRows = 1024;                   // rows of a wave
constexpr int64_t kMaxLogitBytes = int64_t{1} << 28;  // of the [rows, vocab] logits of a decode step

struct Row {
  int64_t index = 0;  // node * samples + sample
  int32_t node = 0;   // into request.nodes
  int64_t prompt_tokens = 0;
  std::vector<kernels::Sample> drawn;
  StopText::State text;
};

void check(const Model& model, const GenerateRequest& request) {
  const ModelConfig& config = model.config();
  validate_forest(request.forest, config.vocab_size, config.max_positions);
  const auto expect = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected ", expected, ", got ", got);
  };
  expect(request.samples >= 1, "samples", "at least 1", request.samples);
  expect(request.temperature >= 0, "temperature", "a number >= 0", request.temperature);
  expect(request.top_p > 0 && request.top_p <= 1, "topP", "a number in (0, 1]", request.top_p);
  expect(request.top_k >= 0, "topK", "an integer >= 0 (0: off)", request.top_k);
  expect(request.max_new_tokens >= 1, "maxNewTokens", "at least 1", request.max_new_tokens);
  expect(request.min_new_tokens >= 0 && request.min_new_tokens <= request.max_new_tokens, "minNewTokens", "0 to maxNewTokens", request.min_new_tokens);
  expect(request.tree_keys.size() == request.nodes.size(), "treeKeys", "one entry per node", request.tree_keys.size());
  expect(request.steps.size() == request.nodes.size(), "steps", "one entry per node", request.steps.size());
  for (int32_t id : request.eos_ids) {
    if (id < 0 || id >= config.vocab_size) fail(ErrorCode::TOKEN_OUT_OF_RANGE, "eosIds: ", id, " is not in [0, ", config.vocab_size, ")");
  }
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    if (request.nodes[i] < 0 || request.nodes[i] >= request.forest.num_segments()) {
      fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", i, " is ", request.nodes[i], ", expected a segment in [0, ", request.forest.num_segments(), ")");
    }
  }
}

// Decodes one wave of rows to their ends.
class Wave {
 public:
  Wave(const Model& model, const GenerateRequest& request, const StopText& stop, std::vector<Row> rows, const CancelFlag& cancel)
      : model_(model), request_(request), stop_(stop), cancel_(cancel), rows_(std::move(rows)), cache_(model, static_cast<int64_t>(rows_.size()), capacity()) {
    for (size_t r = 0; r < rows_.size(); ++r) active_.push_back(static_cast<int64_t>(r));
  }

  // `ended(row)` is called once for each row; tokens run through the model are added to computed_tokens.
  template <typename Ended>
  void run(int64_t& computed_tokens, const Ended& ended) {
    at::Tensor hidden = prefill(computed_tokens);  // [rows, hidden]
    while (true) {
      cancel_.check();
      const std::vector<kernels::Sample> samples = sample(hidden);
      std::vector<int64_t> kept;  // positions in active_ that go on
      for (size_t i = 0; i < active_.size(); ++i) {
        Row& row = rows_[active_[i]];
        row.drawn.push_back(samples[i]);
        if (const auto finish = finish_of(row)) {
          ended(row, *finish);
        } else {
          kept.push_back(static_cast<int64_t>(i));
        }
      }
      if (kept.empty()) return;
      drop_finished(kept);
      hidden = decode();
    }
  }

 private:
  int64_t capacity() const {
    int64_t longest = 0;
    for (const Row& row : rows_) longest = std::max(longest, row.prompt_tokens);
    return longest + std::min<int64_t>(request_.max_new_tokens, 64);  // grows when generation runs longer
  }

  // Runs the paths of the wave's nodes through the model and fills the cache; the last hidden state of every row.
  at::Tensor prefill(int64_t& computed_tokens) {
    std::vector<int32_t> nodes, moved;
    for (const Row& row : rows_) nodes.push_back(request_.nodes[row.node]);
    const Forest forest = keep_paths(request_.forest, nodes, moved);
    at::Tensor hidden;
    for (const TreeRange& range : tree_batches(forest, kPrefillTokens)) {
      cancel_.check();
      const Forest part = slice_trees(forest, range);
      const PackedForest packed = pack_forest(part);
      KeyValues kv;
      const at::Tensor states = model_.forward(part, packed, &kv);
      computed_tokens += part.num_tokens();
      std::vector<int64_t> rows, last;
      std::vector<std::vector<int64_t>> slots;
      for (size_t r = 0; r < rows_.size(); ++r) {
        if (moved[r] < range.first_segment || moved[r] >= range.end_segment) continue;
        const int32_t segment = moved[r] - range.first_segment;
        std::vector<int64_t> path;
        for (int32_t s : path_to(part, segment)) {
          for (int32_t t = part.offsets[s]; t < part.offsets[s + 1]; ++t) path.push_back(t);
        }
        rows.push_back(static_cast<int64_t>(r));
        last.push_back(packed.last_token[segment]);
        slots.push_back(std::move(path));
      }
      cache_.fill(kv, rows, slots);
      const at::Tensor lasts = states.index_select(0, index_tensor(last, model_.device()));
      if (!hidden.defined()) hidden = at::empty({static_cast<int64_t>(rows_.size()), lasts.size(1)}, lasts.options());
      hidden.index_copy_(0, index_tensor(rows, model_.device()), lasts);
    }
    return hidden;
  }

  std::vector<kernels::Sample> sample(const at::Tensor& hidden) const {
    const at::Tensor logits = at::mm(hidden, model_.head().t()).to(at::kFloat);
    std::vector<kernels::SampleKey> keys;
    for (int64_t r : active_) {
      const Row& row = rows_[r];
      const uint32_t drawn = static_cast<uint32_t>(row.drawn.size());
      keys.push_back({request_.tree_keys[row.node], static_cast<uint32_t>(request_.steps[row.node]),
                      static_cast<uint32_t>(request_.first_candidate + row.index % request_.samples), drawn,
                      drawn < static_cast<uint32_t>(request_.min_new_tokens) ? 1u : 0u});
    }
    return sample_rows(logits, keys, request_.eos_ids, {request_.temperature, request_.top_k, request_.top_p, request_.seed});
  }

  std::optional<Finish> finish_of(Row& row) const {
    const int32_t id = row.drawn.back().id;
    const int64_t drawn = static_cast<int64_t>(row.drawn.size());
    if (std::find(request_.eos_ids.begin(), request_.eos_ids.end(), id) != request_.eos_ids.end()) return Finish::eos;
    const bool stopped = stop_.add(row.text, id);
    if (stopped && drawn >= request_.min_new_tokens) return Finish::stop;
    const bool full = row.prompt_tokens + drawn >= model_.config().max_positions;
    if (drawn >= request_.max_new_tokens || full) return Finish::length;
    return std::nullopt;
  }

  // Leaves the positions `kept` (ascending) of active_; those at the back move into the holes.
  void drop_finished(const std::vector<int64_t>& kept) {
    const int64_t rows = static_cast<int64_t>(kept.size());
    if (rows == static_cast<int64_t>(active_.size())) return;
    std::vector<int64_t> from, to;
    size_t front = 0, back = kept.size();
    for (int64_t slot = 0; slot < rows; ++slot) {
      if (kept[front] == slot) {
        ++front;
        continue;
      }
      from.push_back(kept[--back]);
      to.push_back(slot);
      active_[slot] = active_[from.back()];
    }
    active_.resize(rows);
    cache_.shrink(rows, from, to);
  }

  // One token of every active row through the model.
  at::Tensor decode() {
    std::vector<int32_t> tokens;
    for (int64_t r : active_) tokens.push_back(rows_[r].drawn.back().id);
    const at::Tensor positions = index_tensor(cache_.lengths(), model_.device());
    cache_.begin_step();
    const at::Tensor hidden = model_.forward(index_tensor(tokens, model_.device()), positions,
                                             [&](int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) { return cache_.attend(layer, q, k, v); });
    cache_.end_step();
    return hidden;
  }

  const Model& model_;
  const GenerateRequest& request_;
  const StopText& stop_;
  const CancelFlag& cancel_;
  std::vector<Row> rows_;
  std::vector<int64_t> active_;  // rows still running, in cache order
  RowCache cache_;
};

}  // namespace

GenerateResult generate(const Model& model, const TokenBytes& token_bytes, const GenerateRequest& request, const CancelFlag& cancel,
                        int64_t kv_budget_bytes, const std::function<void(int64_t)>& progress) {
  at::NoGradGuard no_grad;
  check(model, request);
  const StopText stop(token_bytes, request.stop);
  const PackedForest packed = pack_forest(request.forest);
  const int64_t samples = request.samples, total = static_cast<int64_t>(request.nodes.size()) * samples;
  const int64_t max_rows = std::max<int64_t>(1, std::min(kMaxRows, kMaxLogitBytes / (4 * model.config().vocab_size)));

  GenerateResult result;
  std::vector<Row> done(total);
  result.finish.resize(total);
  int64_t rows_done = 0;
  for (int64_t next = 0; next < total;) {
    std::vector<Row> rows;
    int64_t longest = 0;
    for (; next < total && static_cast<int64_t>(rows.size()) < max_rows; ++next) {
      Row row;
      row.index = next;
      row.node = static_cast<int32_t>(next / samples);
      const int32_t node = request.nodes[row.node];
      row.prompt_tokens = packed.start[node] + request.forest.offsets[node + 1] - request.forest.offsets[node];
      if (row.prompt_tokens == 0) fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", row.node, " has no token before it to continue from");
      if (row.prompt_tokens >= model.config().max_positions) {
        fail(ErrorCode::CONTEXT_TOO_LONG, "nodes: entry ", row.node, " has ", row.prompt_tokens, " tokens, which leaves no room in the model's ",
             model.config().max_positions, " positions");
      }
      const int64_t longer = std::max(longest, row.prompt_tokens);
      const int64_t bytes = (static_cast<int64_t>(rows.size()) + 1) * (longer + request.max_new_tokens) * RowCache::bytes_per_token(model);
      if (!rows.empty() && bytes > kv_budget_bytes) break;
      longest = longer;
      result.prefix_free_tokens += row.prompt_tokens;
      rows.push_back(std::move(row));
    }
    Wave wave(model, request, stop, std::move(rows), cancel);
    wave.run(result.computed_tokens, [&](Row& row, Finish finish) {
      result.finish[row.index] = finish;
      const int64_t index = row.index;
      done[index] = std::move(row);
      if (progress) progress(++rows_done);
    });
  }

  result.offsets.push_back(0);
  for (const Row& row : done) {
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
