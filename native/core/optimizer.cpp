#include "core/optimizer.h"

#include <cmath>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/row_gradient.h"
#include "stepward/error.h"

namespace stepward {
namespace {

using Entry = Optimizer::Entry;

// Gradients of a narrower dtype that are float32 at the same time, 64 MiB.
constexpr int64_t kWidenedValues = int64_t{1} << 24;

// Tensors with a gradient, as the fused update takes them.
struct Lists {
  std::vector<at::Tensor> gradients, masters, exp_avg, exp_avg_sq, steps;
  std::vector<at::Tensor> rounded, rounded_from;  // weights that are not their own master, and those masters

  void add(const Entry& entry, const at::Tensor& gradient) {
    gradients.push_back(gradient);
    masters.push_back(entry.master);
    if (entry.steps.defined()) {
      exp_avg.push_back(entry.exp_avg);
      exp_avg_sq.push_back(entry.exp_avg_sq);
      steps.push_back(entry.steps);
    }
    if (entry.weight.scalar_type() != at::kFloat) {
      rounded.push_back(entry.weight.detach());
      rounded_from.push_back(masters.back());
    }
  }
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
    group.entries.push_back(std::move(entry));
  }
  for (Group* group : {&decayed, &plain}) {
    if (!group->entries.empty()) groups_.push_back(std::move(*group));
  }
}

void Optimizer::make_state() {
  if (std::exchange(has_state_, true)) return;
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) {
      entry.master = entry.weight.detach().to(at::kFloat);  // of a float32 weight a view; updates are not recorded
      if (options_.optimizer != "adamw") continue;
      const at::Tensor& gradient = entry.weight.grad();
      if (gradient.defined() && gradient.is_sparse() && gradient.is_cpu()) {
        entry.exp_avg = untouched_zeros(entry.master.sizes());
        entry.exp_avg_sq = untouched_zeros(entry.master.sizes());
        entry.moved = at::empty({0}, at::kLong);
      } else {
        entry.exp_avg = at::zeros_like(entry.master);
        entry.exp_avg_sq = at::zeros_like(entry.master);
      }
      entry.steps = at::zeros({}, entry.master.options());
    }
  }
}

double Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  make_state();
  const bool adamw = options_.optimizer == "adamw";
  std::vector<Lists> whole(groups_.size());
  std::vector<std::vector<std::pair<Entry*, RowGradient>>> partial(groups_.size());
  std::vector<std::vector<Entry>> rounded(groups_.size());
  std::vector<at::Tensor> all, norms, steps;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (Entry& entry : groups_[g].entries) {
      const at::Tensor gradient = entry.weight.grad();
      if (!gradient.defined()) continue;
      if (adamw) steps.push_back(entry.steps);
      if (gradient.is_sparse()) {
        all.push_back(partial[g].emplace_back(&entry, gradient).second.values());
        continue;
      }
      entry.moved = at::Tensor();
      if (gradient.scalar_type() != at::kFloat) {
        rounded[g].push_back(entry);
        norms.push_back(at::linalg_vector_norm(gradient, 2, {}, /*keepdim=*/false, at::kFloat));
      } else {
        whole[g].add(entry, gradient);
        all.push_back(gradient);
      }
    }
  }
  if (!all.empty()) {
    for (const at::Tensor& one : at::_foreach_norm(all)) norms.push_back(one);
  }
  if (norms.empty()) return 0;
  const double norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
  if (!std::isfinite(norm)) {
    zero_grad();
    fail(ErrorCode::NUMERICAL, "the gradient norm is ", norm, "; the weights are left as they were");
  }
  const bool clips = options_.max_grad_norm > 0 && norm > options_.max_grad_norm;
  const double factor = clips ? options_.max_grad_norm / (norm + 1e-6) : 1;  // torch's clip_grad_norm_
  // The fused step divides by it on the way: clipping costs no pass of its own.
  std::optional<at::Tensor> scale;
  if (clips && adamw) scale = at::full({}, 1 / factor, norms[0].options());
  const auto update = [&](const Lists& lists, double weight_decay) {
    if (lists.gradients.empty()) return;
    if (adamw) {
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
  };
  // The fused step divides by 1 - beta^step and does not count.
  if (adamw) at::_foreach_add_(steps, at::Scalar(1));
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double weight_decay = groups_[g].weight_decay;
    update(whole[g], weight_decay);
    for (const auto& [entry, gradient] : partial[g]) {
      const bool rounds = entry->weight.scalar_type() != at::kFloat;
      const at::Tensor weight = entry->weight.detach();
      if (weight_decay > 0) {
        entry->master.mul_(1 - learning_rate * weight_decay);
        if (rounds) weight.copy_(entry->master);
      }
      if (!entry->moved.defined()) entry->moved = adamw ? rows_in_use(entry->exp_avg_sq) : at::empty({0}, at::kLong);
      const at::Tensor moved = gradient.with_rows(entry->moved);
      if (adamw) entry->moved = moved;
      gradient.each_slab(moved, [&, entry = entry](const at::Tensor& index, const at::Tensor& slab) {
        Entry some;
        some.weight = some.master = entry->master.index_select(0, index);
        some.steps = entry->steps;
        if (adamw) {
          some.exp_avg = entry->exp_avg.index_select(0, index);
          some.exp_avg_sq = entry->exp_avg_sq.index_select(0, index);
        }
        Lists lists;
        lists.add(some, slab);
        update(lists, 0);
        entry->master.index_copy_(0, index, some.master);
        if (rounds) weight.index_copy_(0, index, some.master.to(weight.scalar_type()));
        if (!adamw) return;
        entry->exp_avg.index_copy_(0, index, some.exp_avg);
        entry->exp_avg_sq.index_copy_(0, index, some.exp_avg_sq);
      });
    }
    // In float32 some at a time: all together are twice the gradients that are there already.
    Lists lists;
    int64_t widened = 0;
    for (const Entry& entry : rounded[g]) {
      lists.add(entry, entry.weight.grad().to(at::kFloat));
      widened += entry.weight.numel();
      if (widened < kWidenedValues) continue;
      update(std::exchange(lists, Lists()), weight_decay);
      widened = 0;
    }
    update(lists, weight_decay);
  }
  zero_grad();
  return norm;
}

void Optimizer::zero_grad() {
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) entry.weight.mutable_grad() = at::Tensor();
  }
}

std::vector<Optimizer::Entry> Optimizer::entries() {
  make_state();
  std::vector<Entry> all;
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) {
      entry.moved = at::Tensor();  // the moments may be written to
      all.push_back(entry);
    }
  }
  return all;
}

}  // namespace stepward
