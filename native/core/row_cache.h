// Keys and values of the rows being decoded: one padded tensor a layer, a row per sequence. Rows are filled from a
// prefilled forest, grow by a token a step, and are dropped when they finish.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/model.h"

namespace stepward {

class RowCache {
 public:
  RowCache(const Model& model, int64_t rows, int64_t capacity);

  // Bytes one cached token of one row takes over all layers.
  static int64_t bytes_per_token(const Model& model);

  // Copies a prefilled path into each of `rows`: slots[i] lists the tokens of `kv` on the path of rows[i].
  void fill(const KeyValues& kv, const std::vector<int64_t>& rows, const std::vector<std::vector<int64_t>>& slots);

  // Attention of one new token per row over its cached tokens and itself; stores the token's key and value.
  // q [R, heads, head_dim], k, v [R, kv_heads, head_dim] -> [R, heads * head_dim].
  at::Tensor attend(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

  // Makes room and the mask for a step in which row r stores its token at lengths()[r]; end_step() then counts it.
  void begin_step();
  void end_step();

  // Moves rows from[i] into to[i] and drops every row from `rows` on: survivors fill the holes that finished rows
  // leave, so a row is copied at most once each time, not the whole cache.
  void shrink(int64_t rows, const std::vector<int64_t>& from, const std::vector<int64_t>& to);

  // [R] cached tokens of each row.
  const std::vector<int64_t>& lengths() const { return lengths_; }

 private:
  void grow(int64_t capacity);

  const ModelConfig& config_;
  int64_t capacity_;
  std::vector<int64_t> lengths_;
  std::vector<at::Tensor> keys_, values_;  // per layer [R, capacity, kv_heads, head_dim]
  // Of the current step:
  int64_t longest_ = 0;
  at::Tensor write_slots_;              // [R] i64 into [R * capacity]
  std::vector<at::Tensor> layer_mask_;  // per layer [R, 1, 1, longest] 0 or -inf
};

}  // namespace stepward
