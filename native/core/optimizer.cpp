#include "core/optimizer.h"

#include <cmath>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "stepward/error.h"

namespace stepward {
namespace {

// One group's tensors with a gradient, as the fused update takes them.
struct Lists {
  std::vector<at::Tensor> gradients, masters, exp_avg, exp_avg_sq, steps;
  std::vector<at::Tensor> rounded, rounded_from;  // weights that are not their own master, and those masters
};

}  // namespace

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

  Group decayed{options.weight_decay, {}}, plain{0, {}};
  for (Parameter& parameter : parameters) {
    // Norm weights and biases (1-D) are not decayed, as in transformers' Trainer.
    Group& group = parameter.tensor.dim() > 1 && options.weight_decay > 0 ? decayed : plain;
    Entry entry;
    entry.name = std::move(parameter.name);
    entry.weight = parameter.tensor;
    entry.master = parameter.tensor.detach().to(at::kFloat);  // of a float32 weight a view; updates are not recorded
    if (adamw) {
      entry.exp_avg = at::zeros_like(entry.master);
      entry.exp_avg_sq = at::zeros_like(entry.master);
      entry.steps = at::zeros({}, entry.master.options());
    }
    group.entries.push_back(std::move(entry));
  }
  for (Group* group : {&decayed, &plain}) {
    if (!group->entries.empty()) groups_.push_back(std::move(*group));
  }
}

double Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  const bool adamw = options_.optimizer == "adamw";
  std::vector<Lists> groups;
  std::vector<at::Tensor> all;
  for (const Group& group : groups_) {
    Lists& lists = groups.emplace_back();
    for (const Entry& entry : group.entries) {
      if (!entry.weight.grad().defined()) continue;
      lists.gradients.push_back(entry.weight.grad().to(at::kFloat));
      lists.masters.push_back(entry.master);
      if (adamw) {
        lists.exp_avg.push_back(entry.exp_avg);
        lists.exp_avg_sq.push_back(entry.exp_avg_sq);
        lists.steps.push_back(entry.steps);
      }
      if (entry.weight.scalar_type() != at::kFloat) {
        lists.rounded.push_back(entry.weight.detach());
        lists.rounded_from.push_back(entry.master);
      }
      all.push_back(lists.gradients.back());
    }
  }
  if (all.empty()) return 0;
  const double norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(all))).item<double>();
  if (!std::isfinite(norm)) {
    zero_grad();
    fail(ErrorCode::NUMERICAL, "the gradient norm is ", norm, "; the weights are left as they were");
  }
  const bool clips = options_.max_grad_norm > 0 && norm > options_.max_grad_norm;
  const double factor = clips ? options_.max_grad_norm / (norm + 1e-6) : 1;  // torch's clip_grad_norm_
  // The fused step divides by it on the way: clipping costs no pass of its own.
  std::optional<at::Tensor> scale;
  if (clips && adamw) scale = at::full({}, 1 / factor, all[0].options());
  for (size_t g = 0; g < groups_.size(); ++g) {
    Lists& lists = groups[g];
    const double weight_decay = groups_[g].weight_decay;
    if (lists.gradients.empty()) continue;
    if (adamw) {
      at::_foreach_add_(lists.steps, at::Scalar(1));  // the fused step divides by 1 - beta^step and does not count
      at::_fused_adamw_(lists.masters, lists.gradients, lists.exp_avg, lists.exp_avg_sq, {}, lists.steps, learning_rate,
                        options_.beta1, options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                        /*maximize=*/false, scale);
    } else if (weight_decay > 0) {
      if (clips) at::_foreach_mul_(lists.gradients, at::Scalar(factor));
      at::_foreach_add_(lists.gradients, lists.masters, weight_decay);
      at::_foreach_add_(lists.masters, lists.gradients, -learning_rate);
    } else {
      at::_foreach_add_(lists.masters, lists.gradients, -learning_rate * factor);
    }
    if (!lists.rounded.empty()) at::_foreach_copy_(lists.rounded, lists.rounded_from);
  }
  zero_grad();
  return norm;
}

void Optimizer::zero_grad() {
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) entry.weight.mutable_grad() = at::Tensor();
  }
}

std::vector<Optimizer::Entry> Optimizer::entries() const {
  std::vector<Entry> all;
  for (const Group& group : groups_) all.insert(all.end(), group.entries.begin(), group.entries.end());
  return all;
}

}  // namespace stepward
