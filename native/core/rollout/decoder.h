// What the rollout engine needs of a model on a device: a step through the layers, and what comes out of its head. One
// implementation a device; the engine itself knows neither tensors nor threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/rollout/step_plan.h"
#include "kernels/sampler.h"
#include "stepward/model.h"

namespace stepward {

// A hidden state after the final norm: row `index` of the last step, or stored slot `index`.
struct HiddenRef {
  bool stored = false;
  int64_t index = 0;
};

// Next-token log-probs wanted of one hidden state.
struct LogprobQuery {
  HiddenRef hidden;
  std::vector<int32_t> targets;
};

// One draw. The drawn Sample is in `sample`; `bad` says that its logits held NaN or +inf or left nothing to draw.
struct DrawQuery {
  HiddenRef hidden;
  kernels::SampleKey key;
  const kernels::SamplingParams* params;
  const std::vector<int32_t>* barred;
  kernels::Sample sample{};
  bool bad = false;
};

// A step of rows that all continue samples: draw r is made from row r.
struct DecodeStep {
  StepPlan plan;
  std::vector<DrawQuery> draws;
};

// Decode steps one after the other, with no wait for what they draw between them. While one lives, its decoder does
// nothing else.
class DecodeRun {
 public:
  virtual ~DecodeRun() = default;

  // Runs the step, or puts it on its way; it must outlive collect(). From the second one on all have the same rows, and
  // row r's token is what draw r of the step before gave, whatever the plan says.
  virtual void step(DecodeStep& step) = 0;
  // Fills in the samples of all steps. A row that could not be drawn is bad from there on: what it draws later is void.
  virtual void collect() = 0;
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  // Bytes of the keys and values of a pool block of 32 tokens.
  virtual int64_t block_bytes() const = 0;

  // From how many rows on a chunk of keys and values is better read once for all of them.
  virtual int64_t sharing_threshold() const = 0;

  // Reads the model's weights. Called before the first step and whenever they have changed.
  virtual void load_weights() = 0;
  // Gives back memory for weights and blocks; load_weights() comes before the next step.
  virtual void release_memory() = 0;

  // Runs the step's rows through every layer. Keys and values go to their slots; the hidden states of the rows that the
  // plan keeps stay until the next step.
  virtual void run(const StepPlan& plan) = 0;

  // Copies a hidden state of the last step to a slot that stays until free_hidden.
  virtual int32_t store_hidden(int64_t row) = 0;
  virtual void free_hidden(int32_t slot) = 0;

  // Draws for every query.
  virtual void draw(std::vector<DrawQuery>& queries) = 0;

  // How many decode steps are best run at a time: more than one where looking at each one's draws leaves a device idle.
  virtual int64_t steps_ahead() const { return 1; }
  // By run() and draw(), unless a decoder knows better.
  virtual std::unique_ptr<DecodeRun> decode_run();

  // Log-probs of all queries' targets, end to end. NaN where logits hold NaN.
  virtual std::vector<float> logprobs(const std::vector<LogprobQuery>& queries) = 0;
};

// `bf16_panels`: a float32 model's weights are read as bfloat16, its arithmetic stays float32.
std::unique_ptr<Decoder> make_cpu_decoder(const Model& model, bool bf16_panels = false);
#ifdef STEPWARD_CUDA
std::unique_ptr<Decoder> make_cuda_decoder(const Model& model);
#endif

}  // namespace stepward
