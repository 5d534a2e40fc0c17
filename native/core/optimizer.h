// AdamW and SGD over a list of parameters, with global-norm clipping. Weights of another dtype than float32 are updated
// through float32 masters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/trainer.h"

namespace stepward {

struct Parameter {
  std::string name;
  at::Tensor tensor;  // requires grad; updated in place
};

class Optimizer {
 public:
  // Throws INVALID_ARGUMENT naming the option that cannot be used.
  Optimizer(std::vector<Parameter> parameters, const TrainerOptions& options);

  // Clips, steps, clears the gradients; see Trainer::apply.
  double step(double learning_rate);
  void zero_grad();

 private:
  // Tensors that share a weight decay: the fused update takes one per call.
  struct Group {
    double weight_decay;
    std::vector<at::Tensor> weights;  // the model's own tensors
    std::vector<at::Tensor> masters;  // float32: the weights themselves, or copies of them
    std::vector<at::Tensor> exp_avg, exp_avg_sq, steps;
  };

  TrainerOptions options_;
  std::vector<Group> groups_;
};

}  // namespace stepward
