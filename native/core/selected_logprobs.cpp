// The one log-prob op of policy, reference and scoring. Logits exist one [rows, columns] block at a time; the backward
// pass makes each block again, turns it into its gradient in place, and folds that into the inputs' gradients.
#include "stepward/score.h"

#include <algorithm>
#include <limits>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/ops.h"
#include "core/train/products.h"
#include "kernels/logprob.h"
#include "stepward/error.h"

#ifdef STEPWARD_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace stepward {
namespace {

// About a million logits (4 MB of f32) at once: large enough for GEMM, small enough for the cache and for flat memory.
constexpr int64_t kBlockElements = 1 << 20, kMaxColumns = 2048;

struct Blocks {
  int64_t columns, rows;
};

Blocks block_shape(int64_t count, int64_t vocab) {
  const int64_t columns = std::min(vocab, kMaxColumns);
  return {columns, std::max<int64_t>(1, std::min(count, kBlockElements / columns))};
}

kernels::LogitBlock block_of(const at::Tensor& logits, int64_t first_column) {
  return {logits.const_data_ptr<float>(), logits.size(0), logits.size(1), logits.stride(0), first_column};
}

// The rows [begin, end) of a block, so that threads can share one.
kernels::LogitBlock rows_of(const kernels::LogitBlock& block, int64_t begin, int64_t end) {
  return {block.logits + begin * block.stride, end - begin, block.cols, block.stride, block.col0};
}

// The three products of a block, x [rows, hidden] with the rows of the head [first, first + columns): logits
// [rows, columns], what their gradient dz adds to x's, and what it adds to the head's.
at::Tensor logits_block(const at::Tensor& x, const at::Tensor& weight, int64_t first, int64_t columns) {
  if (!has_own_kernels(x)) return at::mm(x, weight.narrow(0, first, columns).t()).to(at::kFloat);
  at::Tensor z = at::empty({x.size(0), columns}, x.options());
  product_transposed_weight(x.const_data_ptr<float>(), weight.const_data_ptr<float>() + first * x.size(1), x.size(0),
                            x.size(1), columns, z.data_ptr<float>());
  return z;
}

void add_input_gradient(const at::Tensor& dz, const at::Tensor& weight, int64_t first, const at::Tensor& grad_x) {
  if (!has_own_kernels(weight)) {
    grad_x.addmm_(dz, weight.narrow(0, first, dz.size(1)).to(at::kFloat));
    return;
  }
  product(dz.const_data_ptr<float>(), weight.const_data_ptr<float>() + first * weight.size(1), dz.size(0), dz.size(1),
          weight.size(1), grad_x.data_ptr<float>(), true);
}

void add_weight_gradient(const at::Tensor& dz, const at::Tensor& x, int64_t first, const at::Tensor& grad_weight) {
  if (!has_own_kernels(x)) {
    grad_weight.narrow(0, first, dz.size(1)).addmm_(dz.t(), x.to(at::kFloat));
    return;
  }
  product_over_rows(dz.const_data_ptr<float>(), x.const_data_ptr<float>(), dz.size(0), dz.size(1), x.size(1),
                    grad_weight.data_ptr<float>() + first * x.size(1), true);
}

// The inputs of a row of blocks.
struct Rows {
  at::Tensor hidden;   // [rows, d]
  at::Tensor adapter;  // [rows, rank] f32, or undefined

  Rows(const at::Tensor& all, const at::Tensor& all_adapter, int64_t row, int64_t rows)
      : hidden(all.narrow(0, row, rows)) {
    if (all_adapter.defined()) adapter = all_adapter.narrow(0, row, rows).to(at::kFloat);
  }

  at::Tensor logits(const at::Tensor& weight, const at::Tensor& output, int64_t first, int64_t columns) const {
    at::Tensor z = logits_block(hidden, weight, first, columns);
    if (!adapter.defined()) return z;
    if (!has_own_kernels(output)) return z.addmm_(adapter, output.narrow(0, first, columns).to(at::kFloat).t());
    product_transposed_weight(adapter.const_data_ptr<float>(), output.const_data_ptr<float>() + first * output.size(1),
                              adapter.size(0), output.size(1), columns, z.data_ptr<float>(), true);
    return z;
  }
};

void update(const at::Tensor& logits, int64_t first_column, const int32_t* targets, float* max, float* sum,
            float* target_logit, float* weighted) {
  const kernels::LogitBlock block = block_of(logits, first_column);
#ifdef STEPWARD_CUDA
  if (logits.is_cuda())
    return kernels::logprob_update_cuda(block, targets, max, sum, target_logit, weighted,
                                        c10::cuda::getCurrentCUDAStream().stream());
#endif
  at::parallel_for(0, block.rows, 16, [&](int64_t begin, int64_t end) {
    kernels::logprob_update_cpu(rows_of(block, begin, end), targets + begin, max + begin, sum + begin,
                                target_logit + begin, weighted != nullptr ? weighted + begin : nullptr);
  });
}

void backward_in_place(const at::Tensor& logits, int64_t first_column, const int32_t* targets, const float* lse,
                       const float* grad) {
  const kernels::LogitBlock block = block_of(logits, first_column);
  float* data = logits.data_ptr<float>();
#ifdef STEPWARD_CUDA
  if (logits.is_cuda())
    return kernels::logprob_backward_cuda(data, block, targets, lse, grad, c10::cuda::getCurrentCUDAStream().stream());
#endif
  at::parallel_for(0, block.rows, 16, [&](int64_t begin, int64_t end) {
    kernels::logprob_backward_cpu(data + begin * block.stride, rows_of(block, begin, end), targets + begin, lse + begin,
                                  grad + begin);
  });
}

// What a pass over the vocabulary leaves of each row, [n] f32; `weighted` and `gradient` [n, d] where asked for.
struct RowSums {
  at::Tensor max, sum, target_logit;
  at::Tensor weighted;  // sum of exp(z - max) z
  at::Tensor gradient;  // of the log-prob with respect to hidden: weight[target] - sum of p weight (a frozen weight's)
};

struct Head {
  at::Tensor hidden, weight;   // [n, d], [vocab, d]
  at::Tensor adapter, output;  // [n, rank], [vocab, rank], or undefined
};

RowSums pass_over(const Head& head, const at::Tensor& targets, bool weighted, bool gradient) {
  const auto& [hidden, weight, adapter, output] = head;
  const int64_t count = hidden.size(0), vocab = weight.size(0);
  const Blocks blocks = block_shape(count, vocab);
  const auto options = hidden.options().dtype(at::kFloat).requires_grad(false);
  RowSums sums{at::full({count}, -std::numeric_limits<float>::infinity(), options),
               at::zeros({count}, options),
               at::zeros({count}, options),
               {},
               {}};
  if (weighted) sums.weighted = at::zeros({count}, options);
  if (gradient) sums.gradient = at::zeros({count, hidden.size(1)}, options);
  for (int64_t row = 0; row < count; row += blocks.rows) {
    const int64_t rows = std::min(blocks.rows, count - row);
    const Rows x(hidden, adapter, row, rows);
    const at::Tensor max = sums.max.narrow(0, row, rows);
    const at::Tensor no_target = at::full({rows}, -1, options.dtype(at::kInt)), minus = at::full({rows}, -1, options);
    for (int64_t column = 0; column < vocab; column += blocks.columns) {
      const at::Tensor z = x.logits(weight, output, column, std::min(blocks.columns, vocab - column)).contiguous();
      const at::Tensor before = gradient ? max.clone() : at::Tensor();
      update(z, column, targets.const_data_ptr<int32_t>() + row, max.data_ptr<float>(),
             sums.sum.data_ptr<float>() + row, sums.target_logit.data_ptr<float>() + row,
             weighted ? sums.weighted.data_ptr<float>() + row : nullptr);
      if (!gradient) continue;
      // Sums of exp(z - max) weight, which shrink as the maximum grows.
      at::Tensor sum = sums.gradient.narrow(0, row, rows);
      if (column > 0) sum.mul_((before - max).exp().unsqueeze(1));
      backward_in_place(z, column, no_target.const_data_ptr<int32_t>(), max.const_data_ptr<float>(),
                        minus.const_data_ptr<float>());
      add_input_gradient(z, weight, column, sum);
    }
  }
  if (gradient) {
    sums.gradient.div_(sums.sum.unsqueeze(1)).neg_();
    sums.gradient.add_(weight.index_select(0, targets.to(at::kLong)).to(at::kFloat));
  }
  return sums;
}

TokenStatistics statistics_of(const RowSums& sums, const Head& head) {
  const auto mean_logit = [](const at::Tensor& x, const at::Tensor& weight) {
    return at::mm(x.to(at::kFloat), weight.mean(0, false, at::kFloat).unsqueeze(1)).squeeze(1);
  };
  at::Tensor mean = mean_logit(head.hidden, head.weight);
  if (head.adapter.defined()) mean = mean + mean_logit(head.adapter, head.output);
  return {(sums.max + sums.sum.log()) - sums.weighted / sums.sum, mean, (sums.target_logit >= sums.max).to(at::kFloat)};
}

struct SelectedLogprobs : torch::autograd::Function<SelectedLogprobs> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets,
                            const std::optional<at::Tensor>& adapter_input,
                            const std::optional<at::Tensor>& adapter_output, TokenStatistics* statistics, bool frozen) {
    const at::Tensor adapter = adapter_input.value_or(at::Tensor()), output = adapter_output.value_or(at::Tensor());
    const RowSums sums = pass_over({hidden, weight, adapter, output}, targets, statistics != nullptr, frozen);
    const at::Tensor log_sum = sums.sum.log();
    if (statistics != nullptr) *statistics = statistics_of(sums, {hidden, weight, adapter, output});
    context->saved_data["frozen"] = frozen;
    context->saved_data["dtype"] = static_cast<int64_t>(hidden.scalar_type());
    if (frozen) {
      context->save_for_backward({sums.gradient});
    } else {
      context->save_for_backward({hidden, weight, targets, sums.max + log_sum, adapter, output});
    }
    // Ten times closer than target - (max + log_sum): large terms cancel first.
    return (sums.target_logit - sums.max) - log_sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor none, grad = gradients[0].contiguous();
    if (context->saved_data["frozen"].toBool()) {
      const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
      return {(saved[0] * grad.unsqueeze(1)).to(dtype), none, none, none, none, none, none};
    }
    const at::Tensor &hidden = saved[0], &weight = saved[1], &targets = saved[2], &lse = saved[3], &adapter = saved[4],
                     &output = saved[5];
    const int64_t count = hidden.size(0), vocab = weight.size(0);
    const Blocks blocks = block_shape(count, vocab);
    // Sums over blocks stay in f32 also for bf16 weights.
    const auto sums_for = [&](size_t input, const at::Tensor& of) {
      return of.defined() && context->needs_input_grad(input) ? at::zeros(of.sizes(), of.options().dtype(at::kFloat))
                                                              : at::Tensor();
    };
    const at::Tensor grad_hidden = sums_for(0, hidden), grad_weight = sums_for(1, weight),
                     grad_adapter = sums_for(3, adapter), grad_output = sums_for(4, output);
    for (int64_t row = 0; row < count; row += blocks.rows) {
      const int64_t rows = std::min(blocks.rows, count - row);
      const Rows x(hidden, adapter, row, rows);
      for (int64_t column = 0; column < vocab; column += blocks.columns) {
        const int64_t columns = std::min(blocks.columns, vocab - column);
        const at::Tensor dz = x.logits(weight, output, column, columns);
        backward_in_place(dz, column, targets.const_data_ptr<int32_t>() + row, lse.const_data_ptr<float>() + row,
                          grad.const_data_ptr<float>() + row);
        if (grad_hidden.defined()) add_input_gradient(dz, weight, column, grad_hidden.narrow(0, row, rows));
        if (grad_weight.defined()) add_weight_gradient(dz, x.hidden, column, grad_weight);
        if (grad_adapter.defined()) add_input_gradient(dz, output, column, grad_adapter.narrow(0, row, rows));
        if (grad_output.defined()) add_weight_gradient(dz, x.adapter, column, grad_output);
      }
    }
    const auto like = [](const at::Tensor& sums, const at::Tensor& of) {
      return sums.defined() ? sums.to(of.scalar_type()) : at::Tensor();
    };
    return {like(grad_hidden, hidden),
            like(grad_weight, weight),
            none,
            like(grad_adapter, adapter),
            like(grad_output, output),
            none,
            none};
  }
};

}  // namespace

at::Tensor selected_logprobs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                             const LowRankLogits& adapter, TokenStatistics* statistics) {
  if (hidden.dim() != 2 || weight.dim() != 2 || hidden.size(1) != weight.size(1) || targets.numel() != hidden.size(0)) {
    fail(ErrorCode::INVALID_ARGUMENT, "selected_logprobs: expected hidden [n, d], weight [vocab, d], targets [n], got ",
         hidden.sizes(), ", ", weight.sizes(), ", ", targets.sizes());
  }
  const auto& [input, output] = adapter;
  if (input.defined() != output.defined() ||
      (input.defined() &&
       (input.size(0) != hidden.size(0) || output.size(0) != weight.size(0) || input.size(1) != output.size(1)))) {
    fail(ErrorCode::INVALID_ARGUMENT, "selected_logprobs: expected an adapter of [n, rank] and [vocab, rank]");
  }
  // An undefined tensor is no argument that a Function takes.
  const auto given = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::optional<at::Tensor>(tensor.contiguous()) : std::nullopt;
  };
  const bool frozen =
      at::GradMode::is_enabled() && hidden.requires_grad() && !weight.requires_grad() && !input.defined();
  return SelectedLogprobs::apply(hidden.contiguous(), weight.contiguous(), targets.to(at::kInt).contiguous(),
                                 given(input), given(output), statistics, frozen);
}

}  // namespace stepward
