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

const at::Tensor& gradient_of(const Entry& entry) {
  return entry.taken.defined() ? entry.taken : entry.weight.grad();
}

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

// An optimiser step's arithmetic on some of its tensors.
class Update {
 public:
  // `factor` scales all gradients: clipping. `like`: where scalars live.
  Update(const TrainerOptions& options, double learning_rate, double factor, const at::Tensor& like)
      : options_(options), learning_rate_(learning_rate), factor_(factor) {
    // The fused step divides by it on the way: clipping costs no pass of its own.
    if (factor != 1 && adamw()) divisor_ = at::full({}, 1 / factor, like.options());
  }

  bool adamw() const { return options_.optimizer == "adamw"; }
  double learning_rate() const { return learning_rate_; }

  void run(const Lists& lists, double weight_decay) const {
    if (lists.gradients.empty()) return;
    if (adamw()) {
      at::_fused_adamw_(lists.masters, lists.gradients, lists.exp_avg, lists.exp_avg_sq, {}, lists.steps,
                        learning_rate_, options_.beta1, options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                        /*maximize=*/false, divisor_);
    } else if (weight_decay > 0) {
      if (factor_ != 1) at::_foreach_mul_(lists.gradients, at::Scalar(factor_));
      at::_foreach_add_(lists.gradients, lists.masters, weight_decay);
      at::_foreach_add_(lists.masters, lists.gradients, -learning_rate_);
    } else {
      at::_foreach_add_(lists.masters, lists.gradients, -learning_rate_ * factor_);
    }
    if (!lists.rounded.empty()) at::_foreach_copy_(lists.rounded, lists.rounded_from);
  }

 private:
  const TrainerOptions& options_;
  const double learning_rate_, factor_;
  std::optional<at::Tensor> divisor_;
};

// Rows that ever had a gradient are updated; of the others, weight decay is all that there is to do.
void update_rows(const Update& update, Entry& entry, const RowGradient& gradient, double weight_decay) {
  const bool rounds = entry.weight.scalar_type() != at::kFloat;
  const at::Tensor weight = entry.weight.detach();
  if (weight_decay > 0) {
    entry.master.mul_(1 - update.learning_rate() * weight_decay);
    if (rounds) weight.copy_(entry.master);
  }
  at::Tensor moved = gradient.rows();
  if (update.adamw()) {
    if (!entry.moved.defined()) entry.moved = rows_in_use(entry.exp_avg_sq);
    moved = entry.moved = gradient.with_rows(entry.moved);
  }
  gradient.each_slab(moved, [&](const at::Tensor& index, const at::Tensor& slab) {
    Entry some;
    some.weight = some.master = entry.master.index_select(0, index);
    some.steps = entry.steps;
    if (update.adamw()) {
      some.exp_avg = entry.exp_avg.index_select(0, index);
      some.exp_avg_sq = entry.exp_avg_sq.index_select(0, index);
    }
    Lists lists;
    lists.add(some, slab);
    update.run(lists, 0);
    entry.master.index_copy_(0, index, some.master);
    if (rounds) weight.index_copy_(0, index, some.master.to(weight.scalar_type()));
    if (!update.adamw()) return;
    entry.exp_avg.index_copy_(0, index, some.exp_avg);
    entry.exp_avg_sq.index_copy_(0, index, some.exp_avg_sq);
  });
}

// Gradients of a narrower dtype are widened some at a time: all together are twice the gradients that are there
// already.
void update_widened(const Update& update, const std::vector<Entry*>& entries, double weight_decay) {
  Lists lists;
  int64_t widened = 0;
  for (const Entry* entry : entries) {
    lists.add(*entry, gradient_of(*entry).to(at::kFloat));
    widened += entry->weight.numel();
    if (widened < kWidenedValues) continue;
    update.run(std::exchange(lists, Lists()), weight_decay);
    widened = 0;
  }
  update.run(lists, weight_decay);
}

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
      const at::Tensor& gradient = gradient_of(entry);
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
  take_gradients();
  make_state();
  // What there is to update of a group, by the form of the gradient.
  struct Found {
    Lists whole;
    std::vector<std::pair<Entry*, RowGradient>> rows;
    std::vector<Entry*> narrow;
  };
  std::vector<Found> found(groups_.size());
  std::vector<at::Tensor> all, norms, steps;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (Entry& entry : groups_[g].entries) {
      const at::Tensor gradient = gradient_of(entry);
      if (!gradient.defined()) continue;
      if (entry.steps.defined()) steps.push_back(entry.steps);
      if (gradient.is_sparse()) {
        all.push_back(found[g].rows.emplace_back(&entry, gradient).second.values());
        continue;
      }
      entry.moved = at::Tensor();
      if (gradient.scalar_type() != at::kFloat) {
        found[g].narrow.push_back(&entry);
        norms.push_back(at::linalg_vector_norm(gradient, 2, {}, /*keepdim=*/false, at::kFloat));
      } else {
        found[g].whole.add(entry, gradient);
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
  const Update update(options_, learning_rate, factor, norms[0]);
  // The fused step divides by 1 - beta^step and does not count. All in one call: a launch for each would show on a GPU.
  if (!steps.empty()) at::_foreach_add_(steps, at::Scalar(1));
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double weight_decay = groups_[g].weight_decay;
    update.run(found[g].whole, weight_decay);
    for (const auto& [entry, gradient] : found[g].rows) update_rows(update, *entry, gradient, weight_decay);
    update_widened(update, found[g].narrow, weight_decay);
  }
  zero_grad();
  return norm;
}

void Optimizer::take_gradients() {
  at::NoGradGuard no_grad;
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) {
      at::Tensor& left = entry.weight.mutable_grad();
      if (!left.defined()) continue;
      if (entry.weight.scalar_type() == at::kFloat) {
        // A gradient of rows has one for every token of every pass until equal rows are added up.
        if (left.is_sparse()) left = left.coalesce();
        continue;
      }
      at::Tensor gradient = std::exchange(left, at::Tensor());
      if (gradient.is_sparse()) gradient = gradient.to(at::kFloat).coalesce();
      if (!entry.taken.defined()) {
        entry.taken = gradient;
      } else if (gradient.is_sparse()) {
        entry.taken = (entry.taken + gradient).coalesce();
      } else {
        entry.taken = entry.taken.to(at::kFloat).add_(gradient);
      }
    }
  }
}

void Optimizer::zero_grad() {
  for (Group& group : groups_) {
    for (Entry& entry : group.entries) {
      entry.weight.mutable_grad() = at::Tensor();
      entry.taken = at::Tensor();
    }
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
