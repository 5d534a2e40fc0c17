#include "core/row_cache.h"

#include <algorithm>
#include <limits>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>

#include "core/tensors.h"

namespace stepward {

RowCache::RowCache(const Model& model, int64_t rows, int64_t capacity)
    : config_(model.config()), capacity_(capacity), lengths_(rows, 0) {
  const auto options = at::TensorOptions().device(model.device()).dtype(model.dtype());
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    keys_.push_back(at::zeros({rows, capacity, config_.num_kv_heads, config_.head_dim}, options));
    values_.push_back(at::zeros({rows, capacity, config_.num_kv_heads, config_.head_dim}, options));
  }
}

int64_t RowCache::bytes_per_token(const Model& model) {
  const ModelConfig& c = model.config();
  return c.num_layers * 2 * c.num_kv_heads * c.head_dim * static_cast<int64_t>(c10::elementSize(model.dtype()));
}

void RowCache::fill(const KeyValues& kv, const std::vector<int64_t>& rows,
                    const std::vector<std::vector<int64_t>>& slots) {
  std::vector<int64_t> from, to;
  for (size_t i = 0; i < rows.size(); ++i) {
    lengths_[rows[i]] = static_cast<int64_t>(slots[i].size());
    for (size_t t = 0; t < slots[i].size(); ++t) {
      from.push_back(slots[i][t]);
      to.push_back(rows[i] * capacity_ + static_cast<int64_t>(t));
    }
  }
  const at::Device device = keys_[0].device();
  const at::Tensor source = index_tensor(from, device), target = index_tensor(to, device);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    keys_[i].flatten(0, 1).index_copy_(0, target, kv.keys[i].index_select(0, source));
    values_[i].flatten(0, 1).index_copy_(0, target, kv.values[i].index_select(0, source));
  }
}

void RowCache::begin_step() {
  const int64_t rows = static_cast<int64_t>(lengths_.size());
  longest_ = *std::max_element(lengths_.begin(), lengths_.end()) + 1;
  if (longest_ > capacity_) grow(std::max(longest_, capacity_ + capacity_ / 2));
  const at::Device device = keys_[0].device();
  std::vector<int64_t> slots(rows);
  for (int64_t r = 0; r < rows; ++r) slots[r] = r * capacity_ + lengths_[r];
  write_slots_ = index_tensor(slots, device);
  // A row sees its tokens up to and including the new one, within the layer's window.
  std::map<int64_t, at::Tensor> by_window;
  layer_mask_.clear();
  for (int64_t window : config_.window) {
    if (window >= longest_) window = 0;
    at::Tensor& mask = by_window[window];
    if (!mask.defined()) {
      at::Tensor host = at::full({rows, 1, 1, longest_}, -std::numeric_limits<float>::infinity(), at::kFloat);
      float* data = host.data_ptr<float>();
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t oldest = window > 0 ? std::max<int64_t>(0, lengths_[r] + 1 - window) : 0;
        std::fill(data + r * longest_ + oldest, data + r * longest_ + lengths_[r] + 1, 0.0f);
      }
      mask = host.to(device, keys_[0].scalar_type());
    }
    layer_mask_.push_back(mask);
  }
}

void RowCache::end_step() {
  for (int64_t& length : lengths_) ++length;
}

at::Tensor RowCache::attend(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t rows = q.size(0), kv_heads = config_.num_kv_heads, group = config_.num_heads / kv_heads;
  keys_[layer].flatten(0, 1).index_copy_(0, write_slots_, k);
  values_[layer].flatten(0, 1).index_copy_(0, write_slots_, v);
  // The query heads that share a KV head stand as that head's queries, so keys are read once for all of them.
  const at::Tensor queries = q.view({rows, kv_heads, group, config_.head_dim});
  const at::Tensor keys = keys_[layer].narrow(1, 0, longest_).transpose(1, 2),
                   values = values_[layer].narrow(1, 0, longest_).transpose(1, 2);
  return at::scaled_dot_product_attention(queries, keys, values, layer_mask_[layer]).reshape({rows, -1});
}

void RowCache::shrink(int64_t rows, const std::vector<int64_t>& from, const std::vector<int64_t>& to) {
  for (size_t i = 0; i < from.size(); ++i) lengths_[to[i]] = lengths_[from[i]];
  lengths_.resize(rows);
  const at::Tensor source = index_tensor(from, keys_[0].device()), target = index_tensor(to, keys_[0].device());
  const auto shrunk = [&](at::Tensor& tensor) {
    if (!from.empty()) tensor.index_copy_(0, target, tensor.index_select(0, source));
    tensor = tensor.narrow(0, 0, rows);
  };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    shrunk(keys_[i]);
    shrunk(values_[i]);
  }
}

void RowCache::grow(int64_t capacity) {
  const auto larger = [&](const at::Tensor& old) {
    at::Tensor tensor = at::zeros({old.size(0), capacity, old.size(2), old.size(3)}, old.options());
    tensor.narrow(1, 0, capacity_).copy_(old);
    return tensor;
  };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    keys_[i] = larger(keys_[i]);
    values_[i] = larger(values_[i]);
  }
  capacity_ = capacity;
}

}  // namespace stepward
