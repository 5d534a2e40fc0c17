#include "core/decode_wave.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "core/sample_rows.h"
#include "core/tensors.h"

namespace stepward {
namespace {

// Cached tokens to make room for at first; the cache grows when generation runs longer.
int64_t first_capacity(const std::vector<DecodeRow>& rows, int32_t max_new_tokens) {
  int64_t longest = 0;
  for (const DecodeRow& row : rows) longest = std::max(longest, row.prompt_tokens);
  return longest + std::min<int64_t>(max_new_tokens, 64);
}

}  // namespace

DecodeWave::DecodeWave(const Model& model, const GenerateRequest& request, const StopText& stop,
                       std::vector<DecodeRow> rows, const CancelFlag& cancel)
    : model_(model),
      request_(request),
      stop_(stop),
      cancel_(cancel),
      rows_(std::move(rows)),
      cache_(model, static_cast<int64_t>(rows_.size()), first_capacity(rows_, request.max_new_tokens)) {
  for (size_t r = 0; r < rows_.size(); ++r) active_.push_back(static_cast<int64_t>(r));
}

int64_t DecodeWave::run(const std::function<void(DecodeRow&, Finish)>& ended) {
  at::Tensor hidden = prefill();  // [rows, hidden]
  while (true) {
    cancel_.check();
    const std::vector<kernels::Sample> samples = sample(hidden);
    std::vector<int64_t> kept;  // positions in active_ that go on
    for (size_t i = 0; i < active_.size(); ++i) {
      DecodeRow& row = rows_[active_[i]];
      row.drawn.push_back(samples[i]);
      if (const auto finish = finish_of(row)) {
        ended(row, *finish);
      } else {
        kept.push_back(static_cast<int64_t>(i));
      }
    }
    if (kept.empty()) return computed_tokens_;
    drop_finished(kept);
    hidden = decode();
  }
}

// Runs the paths of the wave's nodes through the model and fills the cache; the last hidden state of every row.
at::Tensor DecodeWave::prefill() {
  std::vector<int32_t> nodes, moved;
  for (const DecodeRow& row : rows_) nodes.push_back(request_.nodes[row.node]);
  const Forest forest = keep_paths(request_.forest, nodes, moved);
  at::Tensor hidden;
  for (const TreeRange& range : tree_batches(forest, kForwardTokens)) {
    cancel_.check();
    const Forest part = slice_trees(forest, range);
    const PackedForest packed = pack_forest(part);
    KeyValues kv;
    const at::Tensor states = model_.forward(part, packed, &kv);
    computed_tokens_ += part.num_tokens();
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

std::vector<kernels::Sample> DecodeWave::sample(const at::Tensor& hidden) const {
  const at::Tensor logits = at::mm(hidden, model_.head().t()).to(at::kFloat);
  std::vector<kernels::SampleKey> keys;
  for (int64_t r : active_) {
    const DecodeRow& row = rows_[r];
    const uint32_t drawn = static_cast<uint32_t>(row.drawn.size());
    keys.push_back({request_.tree_keys[row.node], static_cast<uint32_t>(request_.steps[row.node]),
                    static_cast<uint32_t>(request_.first_candidate + row.index % request_.samples), drawn,
                    drawn < static_cast<uint32_t>(request_.min_new_tokens) ? 1u : 0u});
  }
  return sample_rows(logits, keys, request_.eos_ids,
                     {request_.temperature, request_.top_k, request_.top_p, request_.seed});
}

std::optional<Finish> DecodeWave::finish_of(DecodeRow& row) const {
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
void DecodeWave::drop_finished(const std::vector<int64_t>& kept) {
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
at::Tensor DecodeWave::decode() {
  std::vector<int32_t> tokens;
  for (int64_t r : active_) tokens.push_back(rows_[r].drawn.back().id);
  const at::Tensor positions = index_tensor(cache_.lengths(), model_.device());
  cache_.begin_step();
  const at::Tensor hidden = model_.forward(index_tensor(tokens, model_.device()), positions,
                                           [&](int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                               const at::Tensor& v) { return cache_.attend(layer, q, k, v); });
  cache_.end_step();
  return hidden;
}

}  // namespace stepward
