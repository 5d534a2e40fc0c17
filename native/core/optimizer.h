// AdamW and SGD over a list of parameters, with global-norm clipping. Weights of another dtype than float32 are updated
// through float32 masters. Their state as a file is optimizer_state.h's.
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

  // Clips, steps, clears the gradients; see Trainer::apply. A parameter without a gradient is left as it is, its
  // moments too, as in torch.optim. Throws NUMERICAL where the norm is not finite, with the gradients dropped.
  double step(double learning_rate);
  // After every backward pass: takes in what it left in the weights' gradients. Of weights of another dtype than
  // float32 they are summed up in float32, from the second pass of a step on: in their own, what is small would vanish
  // beside a sum.
  void take_gradients();
  void zero_grad();

  // What is kept of one parameter between steps; tensors are the optimiser's own, so writing to them sets its state.
  struct Entry {
    std::string name;
    at::Tensor weight;               // the model's own
    at::Tensor master;               // float32: the weight itself, or a copy of it
    at::Tensor exp_avg, exp_avg_sq;  // float32, undefined with sgd
    at::Tensor steps;                // float32 scalar, undefined with sgd: how often the moments were updated
    at::Tensor
        taken;  // the sum of the step's gradients so far, where the weight is not float32; undefined between steps
    // i64, ascending: the rows that ever had a gradient, where gradients hold only some rows. Undefined where that is
    // not known.
    at::Tensor moved;
  };
  std::vector<Entry> entries();
  const TrainerOptions& options() const { return options_; }

 private:
  // Tensors that share a weight decay: the fused update takes one per call.
  struct Group {
    double weight_decay;
    std::vector<Entry> entries;
  };

  // Masters and moments are made when they are first needed: they are the most that a training takes, and whether they
  // fit is asked before.
  void make_state();

  TrainerOptions options_;
  std::vector<Group> groups_;
  bool has_state_ = false;
};

}  // namespace stepward
