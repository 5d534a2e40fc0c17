#include "core/optimizer.h"

#include <algorithm>
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
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "stepward/error.h"

namespace stepward {
namespace {

using Entry = Optimizer::Entry;

// Gradients of a narrower dtype that are float32 at the same time, 64 MiB.
constexpr int64_t kWidenedValues = int64_t{1} << 24;

constexpr auto kAllRows = [](const at::Tensor& tensor) { return tensor; };

// Tensors with a gradient, as the fused update takes them.
struct Lists {
  std::vector<at::Tensor> gradients, masters, exp_avg, exp_avg_sq, steps;
  std::vector<at::Tensor> rounded, rounded_from;  // weights that are not their own master, and those masters

  // `rows` gives the rows of a tensor that the gradient is for.
  template <typename Rows>
  void add(const Entry& entry, const at::Tensor& gradient, const Rows& rows) {
    gradients.push_back(gradient);
    masters.push_back(rows(entry.master));
    if (entry.steps.defined()) {
      exp_avg.push_back(rows(entry.exp_avg));
      exp_avg_sq.push_back(rows(entry.exp_avg_sq));
      steps.push_back(entry.steps);
    }
    if (entry.weight.scalar_type() != at::kFloat) {
      rounded.push_back(rows(entry.weight.detach()));
      rounded_from.push_back(masters.back());
    }
  }
};

// A gradient that has some rows of a weight only, as an input embedding's has those of tokens that occurred. The others
// are zero, but the moments and weight decay move their weights all the same.
struct RowGradient {
  Entry entry;
  at::Tensor rows;    // i64 [n] on the CPU, ascending
  at::Tensor values;  // f32 [n, columns]

  // Calls use(begin, gradient) for slabs of some rows from `begin` on, gradient f32 [some, columns] with its zeros: the
  // whole of it never exists.
  template <typename Use>
  void each_slab(const Use& use) const {
    const int64_t total = entry.master.size(0), columns = entry.master.size(1);
    const int64_t at_once = std::max<int64_t>(1, kSlabValues / columns);
    const int64_t* row = rows.const_data_ptr<int64_t>();
    const auto before = [&](int64_t end) { return std::lower_bound(row, row + rows.numel(), end) - row; };
    for (int64_t begin = 0; begin < total; begin += at_once) {
      const int64_t end = std::min(total, begin + at_once), first = before(begin), count = before(end) - first;
      const at::Tensor slab = at::zeros({end - begin, columns}, values.options());
      slab.index_copy_(0, (rows.narrow(0, first, count) - begin).to(values.device()), values.narrow(0, first, count));
      use(begin, slab);
    }
  }

 private:
  static constexpr int64_t kSlabValues = int64_t{1} << 20;
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
      entry.exp_avg = at::zeros_like(entry.master);
      entry.exp_avg_sq = at::zeros_like(entry.master);
      entry.steps = at::zeros({}, entry.master.options());
    }
  }
}

double Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  make_state();
  const bool adamw = options_.optimizer == "adamw";
  std::vector<Lists> whole(groups_.size());
  std::vector<std::vector<RowGradient>> partial(groups_.size());
  std::vector<std::vector<Entry>> rounded(groups_.size());
  std::vector<at::Tensor> all, norms;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (const Entry& entry : groups_[g].entries) {
      const at::Tensor gradient = entry.weight.grad();
      if (!gradient.defined()) continue;
      if (gradient.is_sparse()) {
        const at::Tensor merged = gradient.coalesce();
        partial[g].push_back({entry, merged.indices()[0].to(at::kCPU), merged.values().to(at::kFloat)});
        all.push_back(partial[g].back().values);
      } else if (gradient.scalar_type() != at::kFloat) {
        rounded[g].push_back(entry);
        norms.push_back(at::linalg_vector_norm(gradient, 2, {}, /*keepdim=*/false, at::kFloat));
      } else {
        whole[g].add(entry, gradient, kAllRows);
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
  const auto count = [](const Entry& entry) {
    if (entry.steps.defined()) at::Tensor(entry.steps).add_(1);
  };
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double weight_decay = groups_[g].weight_decay;
    for (at::Tensor& steps : whole[g].steps) steps.add_(1);
    update(whole[g], weight_decay);
    for (const RowGradient& gradient : partial[g]) {
      count(gradient.entry);
      gradient.each_slab([&](int64_t begin, const at::Tensor& slab) {
        Lists lists;
        lists.add(gradient.entry, slab,
                  [&](const at::Tensor& tensor) { return tensor.narrow(0, begin, slab.size(0)); });
        update(lists, weight_decay);
      });
    }
    // In float32 some at a time: all together are twice the gradients that are there already.
    Lists lists;
    int64_t widened = 0;
    for (const Entry& entry : rounded[g]) {
      count(entry);
      lists.add(entry, entry.weight.grad().to(at::kFloat), kAllRows);
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
  for (const Group& group : groups_) all.insert(all.end(), group.entries.begin(), group.entries.end());
  return all;
}

}  // namespace stepward
