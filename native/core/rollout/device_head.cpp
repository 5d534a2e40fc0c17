#ifdef STEPWARD_CUDA

#include "core/rollout/device_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAStream.h>

#include "core/rollout/fused_model.h"
#include "kernels/decoder_rows.h"
#include "kernels/logprob.h"

namespace stepward {
namespace {

using kernels::Sample;
using kernels::SampleKey;

// Logits that exist at a time where a draw needs whole rows: 256 MB.
constexpr int64_t kDrawElements = int64_t{1} << 26;
// Columns and rows of a block of logits that are only summed up. The columns are fixed, so that a row's sum does not
// depend on the rows beside it.
constexpr int64_t kLogitColumns = 16384, kLogitRows = 2048;

void* current_stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

// Values of several types on their way to the device in one copy; each list starts at a multiple of 8 bytes.
class Parcel {
 public:
  template <typename T>
  int64_t add(const std::vector<T>& values) {
    const int64_t at = static_cast<int64_t>(bytes_.size());
    bytes_.resize(at + (values.size() * sizeof(T) + 7) / 8 * 8);
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
  void send(const at::Device& device) {
    const at::Tensor host = at::empty({std::max<int64_t>(1, static_cast<int64_t>(bytes_.size()))},
                                      at::TensorOptions(at::kByte).pinned_memory(true));
    std::memcpy(host.data_ptr(), bytes_.data(), bytes_.size());
    device_ = host.to(device, /*non_blocking=*/true);
  }
  template <typename T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(device_.const_data_ptr()) + offset);
  }
  at::Tensor bytes(int64_t offset, int64_t count) const { return device_.narrow(0, offset, count); }

 private:
  std::vector<char> bytes_;
  at::Tensor device_;
};

const void* address(const DeviceHead& head, const HiddenRef& ref) {
  const at::Tensor& from = ref.stored ? head.stored : head.step;
  return static_cast<const char*>(from.const_data_ptr()) + ref.index * from.size(1) * from.element_size();
}

// Hidden states as the rows of a product, [count, hidden]. `addresses` are theirs, on the device. Rows of the step that
// lie side by side, as those of a decode step do, are taken where they are.
at::Tensor rows_of(const DeviceHead& head, const HiddenRef* refs, int64_t count, const void* const* addresses) {
  bool in_place = true;
  for (int64_t i = 0; i < count; ++i) in_place &= !refs[i].stored && refs[i].index == refs[0].index + i;
  if (in_place) return head.step.narrow(0, refs[0].index, count);
  const int64_t hidden = head.weight.size(1);
  at::Tensor rows = at::empty({count, hidden}, head.weight.options());
  kernels::gather_rows_cuda(addresses, count, hidden * rows.element_size(), rows.data_ptr(), current_stream());
  return rows;
}

bool same_params(const kernels::SamplingParams& a, const kernels::SamplingParams& b) {
  return a.temperature == b.temperature && a.top_k == b.top_k && a.top_p == b.top_p && a.min_p == b.min_p &&
         a.seed == b.seed;
}

// Draws with the same parameters, and the hidden states that they draw from.
struct DrawGroup {
  const kernels::SamplingParams* params;
  const std::vector<int32_t>* barred;
  std::vector<HiddenRef> refs;             // distinct
  std::vector<std::vector<size_t>> draws;  // [refs] indices of queries
  std::map<std::pair<bool, int64_t>, size_t> known;
  int64_t barred_at = 0, addresses_at = 0;  // in the parcel
};

std::vector<DrawGroup> group_draws(const std::vector<DrawQuery>& queries) {
  std::vector<DrawGroup> groups;
  for (size_t i = 0; i < queries.size(); ++i) {
    const DrawQuery& query = queries[i];
    auto group = std::find_if(groups.begin(), groups.end(), [&](const DrawGroup& g) {
      return same_params(*g.params, *query.params) && *g.barred == *query.barred;
    });
    if (group == groups.end()) group = groups.insert(groups.end(), {query.params, query.barred});
    const auto [at, fresh] = group->known.try_emplace({query.hidden.stored, query.hidden.index}, group->refs.size());
    if (fresh) {
      group->refs.push_back(query.hidden);
      group->draws.emplace_back();
    }
    group->draws[at->second].push_back(i);
  }
  return groups;
}

// Those with most draws first: then the k-th draws of all hidden states are those of a leading run of rows, and one
// launch a rank draws for all siblings from shared logits.
void sort_by_draws(DrawGroup& group) {
  std::vector<size_t> order(group.refs.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return group.draws[a].size() > group.draws[b].size(); });
  std::vector<HiddenRef> refs;
  std::vector<std::vector<size_t>> draws;
  for (const size_t i : order) {
    refs.push_back(group.refs[i]);
    draws.push_back(std::move(group.draws[i]));
  }
  group.refs = std::move(refs);
  group.draws = std::move(draws);
}

}  // namespace

QueuedDraws queue_draws(const DeviceHead& head, const std::vector<DrawQuery>& queries) {
  const int64_t vocab = head.weight.size(0), at_once = std::max<int64_t>(1, kDrawElements / vocab);
  std::vector<DrawGroup> groups = group_draws(queries);
  Parcel parcel;
  std::vector<size_t> order;  // of the draws: by group, block of rows, rank, row
  std::vector<SampleKey> keys;
  for (DrawGroup& group : groups) {
    sort_by_draws(group);
    std::vector<const void*> addresses;
    for (const HiddenRef& ref : group.refs) addresses.push_back(address(head, ref));
    group.addresses_at = parcel.add(addresses);
    group.barred_at = parcel.add(*group.barred);
    const auto refs = static_cast<int64_t>(group.refs.size());
    for (int64_t first = 0; first < refs; first += at_once) {
      const int64_t end = std::min(refs, first + at_once);
      for (size_t rank = 0; rank < group.draws[first].size(); ++rank) {
        for (int64_t r = first; r < end && rank < group.draws[r].size(); ++r) order.push_back(group.draws[r][rank]);
      }
    }
  }
  for (const size_t i : order) keys.push_back(queries[i].key);
  std::vector<int32_t> places(order.size());
  for (size_t i = 0; i < order.size(); ++i) places[order[i]] = static_cast<int32_t>(i);
  const int64_t keys_at = parcel.add(keys), places_at = parcel.add(places);
  parcel.send(head.weight.device());

  const auto bytes = head.weight.options().dtype(at::kByte);
  // Ids of -1: the kernel writes nothing for a row that it cannot draw from.
  const at::Tensor out = at::full({static_cast<int64_t>(order.size() * sizeof(Sample))}, 255, bytes);
  const at::Tensor first_bad = at::empty({8}, bytes);
  int64_t drawn = 0;
  for (const DrawGroup& group : groups) {
    const auto refs = static_cast<int64_t>(group.refs.size());
    for (int64_t first = 0; first < refs; first += at_once) {
      const int64_t rows = std::min(refs - first, at_once);
      const at::Tensor logits = at::empty({rows, vocab}, head.weight.options().dtype(at::kFloat));
      product(rows_of(head, group.refs.data() + first, rows, parcel.at<const void*>(group.addresses_at) + first),
              head.weight, logits);
      for (size_t rank = 0; rank < group.draws[first].size(); ++rank) {
        int64_t count = 0;
        while (count < rows && rank < group.draws[first + count].size()) ++count;
        kernels::sample_rows_cuda(logits.const_data_ptr<float>(), count, vocab, vocab,
                                  parcel.at<SampleKey>(keys_at) + drawn, parcel.at<int32_t>(group.barred_at),
                                  static_cast<int64_t>(group.barred->size()), *group.params,
                                  static_cast<Sample*>(out.data_ptr()) + drawn,
                                  static_cast<int64_t*>(first_bad.data_ptr()), current_stream());
        drawn += count;
      }
    }
  }
  return {out, std::move(order), parcel.bytes(places_at, static_cast<int64_t>(places.size()) * 4).view(at::kInt)};
}

void collect_draws(const QueuedDraws& draws, std::vector<DrawQuery>& queries) {
  const at::Tensor host = draws.samples.to(at::kCPU);
  const auto* samples = static_cast<const Sample*>(host.const_data_ptr());
  for (size_t i = 0; i < draws.order.size(); ++i) {
    DrawQuery& query = queries[draws.order[i]];
    query.sample = samples[i];
    query.bad = samples[i].id < 0;
  }
}

std::vector<float> target_logprobs(const DeviceHead& head, const std::vector<LogprobQuery>& queries) {
  const int64_t vocab = head.weight.size(0), count = static_cast<int64_t>(queries.size());
  std::vector<HiddenRef> refs;
  std::vector<const void*> addresses;
  std::vector<size_t> offsets{0};
  for (const LogprobQuery& query : queries) {
    refs.push_back(query.hidden);
    addresses.push_back(address(head, query.hidden));
    offsets.push_back(offsets.back() + query.targets.size());
  }
  std::vector<float> result(offsets.back());
  if (result.empty()) return result;

  // The targets of every block of rows and columns, as places in its logits, and where their log-probs go.
  std::vector<int64_t> places;
  std::vector<size_t> goes_to, picks_of_block;
  for (int64_t first = 0; first < count; first += kLogitRows) {
    const int64_t end = std::min(count, first + kLogitRows);
    std::vector<std::vector<std::pair<int64_t, size_t>>> picks((vocab + kLogitColumns - 1) / kLogitColumns);
    for (int64_t r = first; r < end; ++r) {
      for (size_t t = 0; t < queries[r].targets.size(); ++t) {
        const int64_t target = queries[r].targets[t], block = target / kLogitColumns;
        const int64_t columns = std::min(kLogitColumns, vocab - block * kLogitColumns);
        picks[block].push_back({(r - first) * columns + target % kLogitColumns, offsets[r] + t});
      }
    }
    for (const auto& block : picks) {
      picks_of_block.push_back(block.size());
      for (const auto& [place, to] : block) {
        places.push_back(place);
        goes_to.push_back(to);
      }
    }
  }
  Parcel parcel;
  const int64_t addresses_at = parcel.add(addresses), places_at = parcel.add(places);
  parcel.send(head.weight.device());

  const auto floats = head.weight.options().dtype(at::kFloat);
  // Per row the largest logit and the sum over exp(logit - largest), then the targets' logits: read back in one copy.
  const auto targets = static_cast<int64_t>(places.size());
  const at::Tensor state = at::zeros({2 * count + targets}, floats);
  state.narrow(0, 0, count).fill_(-std::numeric_limits<float>::infinity());
  float* max = state.data_ptr<float>();
  // Targets are picked below, as a row may have several.
  const at::Tensor none = at::full({std::min(count, kLogitRows)}, -1, floats.dtype(at::kInt));
  const at::Tensor memory = at::empty({std::min(count, kLogitRows) * std::min(vocab, kLogitColumns)}, floats);
  size_t block = 0;
  int64_t picked = 0;
  for (int64_t first = 0; first < count; first += kLogitRows) {
    const int64_t rows = std::min(count - first, kLogitRows);
    const at::Tensor x = rows_of(head, refs.data() + first, rows, parcel.at<const void*>(addresses_at) + first);
    for (int64_t column = 0; column < vocab; column += kLogitColumns) {
      const int64_t columns = std::min(kLogitColumns, vocab - column);
      const at::Tensor logits = memory.narrow(0, 0, rows * columns);
      product(x, head.weight.narrow(0, column, columns), logits.view({rows, columns}));
      kernels::logprob_update_cuda({logits.const_data_ptr<float>(), rows, columns, columns, column},
                                   none.const_data_ptr<int32_t>(), max + first, max + count + first, nullptr,
                                   nullptr, current_stream());
      const auto picks = static_cast<int64_t>(picks_of_block[block++]);
      if (picks == 0) continue;
      at::Tensor to = state.narrow(0, 2 * count + picked, picks);
      at::index_select_out(to, logits, 0, parcel.bytes(places_at + picked * 8, picks * 8).view(at::kLong));
      picked += picks;
    }
  }
  const at::Tensor host = state.to(at::kCPU);
  const float* values = host.const_data_ptr<float>();
  std::vector<int64_t> row_of(result.size());
  for (int64_t r = 0; r < count; ++r) {
    for (size_t i = offsets[r]; i < offsets[r + 1]; ++i) row_of[i] = r;
  }
  for (int64_t i = 0; i < targets; ++i) {
    const int64_t row = row_of[goes_to[i]];
    const auto log_sum = static_cast<float>(std::log(static_cast<double>(values[count + row])));
    result[goes_to[i]] = (values[2 * count + i] - values[row]) - log_sum;  // large terms cancel first
  }
  return result;
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
