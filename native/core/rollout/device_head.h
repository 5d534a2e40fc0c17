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

// Decoder::draw: siblings share the logits of their hidden state.
void draw_rows(const DeviceHead& head, std::vector<DrawQuery>& queries);

// Decoder::logprobs, by blocks of the vocabulary: [rows, vocab] is never whole.
std::vector<float> target_logprobs(const DeviceHead& head, const std::vector<LogprobQuery>& queries);

}  // namespace stepward
