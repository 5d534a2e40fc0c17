#include "core/optimizer.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "stepward/error.h"

namespace stepward {

Optimizer::Optimizer(std::vector<Parameter> parameters, const TrainerOptions& options) : options_(options) {
  const auto expect = [](bool ok, const char* name, const char* expected, auto got) {
    if (!ok) fail(ErrorCode::INVALID_ARGUMENT, name, ": expected ", expected, ", got ", got);
  };
  const bool adamw = options.optimizer == "adamw";
  expect(adamw || options.optimizer == "sgd", "optimizer", "adamw or sgd", options.optimizer);
  expect(options.beta1 >= 0 && options.beta1 < 1, "beta1", "a number in [0, 1)", options.beta1);
  expect(options.beta2 >= 0 && options.beta2 < 1, "beta2", "a number in [0, 1)", options.beta2);
  expect(options.eps > 0, "eps", "a number > 0", options.eps);
  expect(options.weight_decay >= 0, "weightDecay", "a number >= 0", options.weight_decay);
  expect(options.max_grad_norm >= 0, "maxGradNorm", "a number >= 0 (0: off)", options.max_grad_norm);

  Group decayed{options.weight_decay, {}, {}, {}, {}, {}}, plain{0, {}, {}, {}, {}, {}};
  for (Parameter& parameter : parameters) {
    // Norm weights and biases (1-D) are not decayed, as in transformers' Trainer.
    Group& group = parameter.tensor.dim() > 1 && options.weight_decay > 0 ? decayed : plain;
    const at::Tensor weight = parameter.tensor.detach();  // shares storage; updates are not recorded
    const at::Tensor master = weight.scalar_type() == at::kFloat ? weight : weight.to(at::kFloat);
    group.weights.push_back(parameter.tensor);
    group.masters.push_back(master);
    if (adamw) {
      group.exp_avg.push_back(at::zeros_like(master));
      group.exp_avg_sq.push_back(at::zeros_like(master));
      group.steps.push_back(at::zeros({}, master.options()));
    }
  }
  for (Group* group : {&decayed, &plain}) {
    if (!group->weights.empty()) groups_.push_back(std::move(*group));
  }
}

double Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  std::vector<std::vector<at::Tensor>> gradients;
  std::vector<at::Tensor> all;
  for (const Group& group : groups_) {
    gradients.emplace_back();
    for (size_t i = 0; i < group.weights.size(); ++i) {
      const at::Tensor& grad = group.weights[i].grad();
      gradients.back().push_back(grad.defined() ? grad.to(at::kFloat) : at::zeros_like(group.masters[i]));
      all.push_back(gradients.back().back());
    }
  }
  const double norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(all))).item<double>();
  if (!std::isfinite(norm)) {
    zero_grad();
    fail(ErrorCode::NUMERICAL, "the gradient norm is ", norm, "; the weights are left as they were");
  }
  if (options_.max_grad_norm > 0 && norm > options_.max_grad_norm) {
    at::_foreach_mul_(all, at::Scalar(options_.max_grad_norm / (norm + 1e-6)));  // torch's clip_grad_norm_
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    if (options_.optimizer == "adamw") {
      at::_foreach_add_(group.steps, at::Scalar(1));  // the fused step divides by 1 - beta^step and does not count
      at::_fused_adamw_(group.masters, gradients[g], group.exp_avg, group.exp_avg_sq, {}, group.steps, learning_rate,
                        options_.beta1, options_.beta2, group.weight_decay, options_.eps, /*amsgrad=*/false,
                        /*maximize=*/false);
    } else {
      if (group.weight_decay > 0) at::_foreach_add_(gradients[g], group.masters, group.weight_decay);
      at::_foreach_add_(group.masters, gradients[g], -learning_rate);
    }
    for (size_t i = 0; i < group.weights.size(); ++i) {
      if (group.weights[i].scalar_type() != at::kFloat) group.weights[i].detach().copy_(group.masters[i]);
    }
  }
  zero_grad();
  return norm;
}

void Optimizer::zero_grad() {
  for (Group& group : groups_) {
    for (at::Tensor& weight : group.weights) weight.mutable_grad() = at::Tensor();
  }
}

}  // namespace stepward
