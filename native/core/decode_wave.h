// A wave of rows decoded to their ends: one prefill of the paths they continue, then a token a step for every row.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/row_cache.h"
#include "core/stop_text.h"
#include "kernels/sampler.h"
#include "stepward/cancel.h"
#include "stepward/rollout.h"

namespace stepward {

// One sample of one node.
struct DecodeRow {
  int64_t index = 0;  // node * samples + sample
  int32_t node = 0;   // into request.nodes
  int64_t prompt_tokens = 0;
  std::vector<kernels::Sample> drawn;
  StopText::State text;
};

class DecodeWave {
 public:
  DecodeWave(const Model& model, const GenerateRequest& request, const StopText& stop, std::vector<DecodeRow> rows,
             const CancelFlag& cancel);

  // `ended` is called once for each row, in the order they end. Returns the prompt tokens run through the model.
  int64_t run(const std::function<void(DecodeRow&, Finish)>& ended);

 private:
  at::Tensor prefill();
  std::vector<kernels::Sample> sample(const at::Tensor& hidden) const;
  std::optional<Finish> finish_of(DecodeRow& row) const;
  void drop_finished(const std::vector<int64_t>& kept);
  at::Tensor decode();

  const Model& model_;
  const GenerateRequest& request_;
  const StopText& stop_;
  const CancelFlag& cancel_;
  std::vector<DecodeRow> rows_;
  std::vector<int64_t> active_;  // rows still running, in cache order
  RowCache cache_;
  int64_t computed_tokens_ = 0;
};

}  // namespace stepward
