// A request in flight in the rollout engine: what it goes through, and what it waits for.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "core/rollout/segment.h"
#include "core/stop_text.h"
#include "kernels/sampler.h"
#include "stepward/cancel.h"
#include "stepward/rollout.h"

namespace stepward {

// What all rows of a fork share.
struct Sampling {
  SamplingOptions options;
  StopText stop;
  kernels::SamplingParams params;
  uint64_t tree_key;
  uint32_t step, first_candidate;
};

struct SampleRow {
  Segment* segment = nullptr;  // open, below the task's node
  std::vector<kernels::Sample> drawn;
  StopText::State text;
  bool ended = false;
  Finish finish = Finish::length;
};

struct Task {
  enum class Kind { sample, score, readout };

  Kind kind;
  int64_t priority = 0, sequence = 0;
  std::shared_ptr<const CancelFlag> cancel;
  Segment* node = nullptr;  // sampled after; scored; read after. Held by the task
  bool started = false;     // was part of a step

  std::shared_ptr<const Sampling> sampling;
  int32_t samples = 0;
  std::vector<SampleRow> rows;  // made with the first draw
  int64_t rows_left = 0;

  std::vector<int32_t> labels;  // of a readout
  std::vector<float> values;    // log-probs of a score or a readout

  std::function<void(Task&, std::exception_ptr)> done;

  // Tokens of the node that have to be computed. The last token of a scored leaf predicts nothing that is asked for.
  int64_t needed() const { return node->length() - (kind == Kind::score && node->children == 0 ? 1 : 0); }
};

}  // namespace stepward
