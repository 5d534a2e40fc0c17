// What comes out of the model's head on the device: draws and log-probs of hidden states, as Decoder has them.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "core/rollout/decoder.h"

namespace stepward {

// Hidden states and the head's weight have one dtype, float32 or bfloat16.
struct DeviceHead {
  at::Tensor weight;  // [vocab, hidden]
  at::Tensor step;    // [rows, hidden] of the last step
  at::Tensor stored;  // [slots, hidden], or undefined
};

// Draws on their way.
struct QueuedDraws {
  at::Tensor samples;         // bytes of kernels::Sample [draws], ids of -1 where there is none
  std::vector<size_t> order;  // samples[i] is the draw of query order[i]
  at::Tensor places;          // i32 [draws]: query q's draw is samples[places[q]]
};

// Decoder::draw, without waiting: siblings share the logits of their hidden state.
QueuedDraws queue_draws(const DeviceHead& head, const std::vector<DrawQuery>& queries);
// Waits for them.
void collect_draws(const QueuedDraws& draws, std::vector<DrawQuery>& queries);

// Decoder::logprobs, by blocks of the vocabulary: [rows, vocab] is never whole.
std::vector<float> target_logprobs(const DeviceHead& head, const std::vector<LogprobQuery>& queries);

}  // namespace stepward
