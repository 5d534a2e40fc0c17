// How much memory a training step takes, by formula, before anything is computed.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "stepward/model.h"
#include "stepward/trainer.h"

namespace stepward {

// Memory of the process (or of the device) that is taken now, and that could still be had: the least of what the system
// and the control groups above the process leave. -1 where that cannot be known.
int64_t resident_bytes(const at::Device& device);
int64_t available_bytes(const at::Device& device);

// What the trainable tensors take: gradients in their own dtype, float32 moments of AdamW, float32 masters of others.
struct TrainableBytes {
  int64_t gradients = 0, optimizer = 0, largest_gradient = 0;
};

// `base`: taken before the trainer was made, the weights included.
TrainingMemory training_memory(const Model& model, const TrainableBytes& trainable, int64_t base,
                               const MicroBatchShape& shape);

}  // namespace stepward
