// The one log-prob op of policy, reference and scoring. Logits exist one [rows, columns] block at a time; the backward
// pass makes each block again, turns it into its gradient in place, and folds that into the inputs' gradients.
#include "stepward/score.h"

#include <algorithm>
#include <limits>

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

void add_input_gradient(const at::Tensor& dz, const at::Tensor& weight, int64_t first, at::Tensor& grad_x) {
  if (!has_own_kernels(weight)) {
    grad_x.addmm_(dz, weight.narrow(0, first, dz.size(1)).to(at::kFloat));
    return;
  }
  product(dz.const_data_ptr<float>(), weight.const_data_ptr<float>() + first * weight.size(1), dz.size(0), dz.size(1),
          weight.size(1), grad_x.data_ptr<float>(), true);
}

void add_weight_gradient(const at::Tensor& dz, const at::Tensor& x, int64_t first, at::Tensor& grad_weight) {
  if (!has_own_kernels(x)) {
    grad_weight.narrow(0, first, dz.size(1)).addmm_(dz.t(), x.to(at::kFloat));
    return;
  }
  product_over_rows(dz.const_data_ptr<float>(), x.const_data_ptr<float>(), dz.size(0), dz.size(1), x.size(1),
                    grad_weight.data_ptr<float>() + first * x.size(1), true);
}

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

RowSums pass_over(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, bool weighted,
                  bool gradient) {
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
    const at::Tensor x = hidden.narrow(0, row, rows), max = sums.max.narrow(0, row, rows);
    const at::Tensor no_target = at::full({rows}, -1, options.dtype(at::kInt)), minus = at::full({rows}, -1, options);
    for (int64_t column = 0; column < vocab; column += blocks.columns) {
      const at::Tensor z = logits_block(x, weight, column, std::min(blocks.columns, vocab - column)).contiguous();
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

TokenStatistics statistics_of(const RowSums& sums, const at::Tensor& hidden, const at::Tensor& weight) {
  const at::Tensor mean_weight = weight.mean(0, false, at::kFloat).unsqueeze(1);
  return {(sums.max + sums.sum.log()) - sums.weighted / sums.sum, at::mm(hidden.to(at::kFloat), mean_weight).squeeze(1),
          (sums.target_logit >= sums.max).to(at::kFloat)};
}

struct SelectedLogprobs : torch::autograd::Function<SelectedLogprobs> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets, TokenStatistics* statistics,
                            bool frozen) {
    const RowSums sums = pass_over(hidden, weight, targets, statistics != nullptr, frozen);
    const at::Tensor log_sum = sums.sum.log();
    if (statistics != nullptr) *statistics = statistics_of(sums, hidden, weight);
    context->saved_data["frozen"] = frozen;
    context->saved_data["dtype"] = static_cast<int64_t>(hidden.scalar_type());
    if (frozen) {
      context->save_for_backward({sums.gradient});
    } else {
      context->save_for_backward({hidden, weight, targets, sums.max + log_sum});
    }
    // Ten times closer than target - (max + log_sum): large terms cancel first.
    return (sums.target_logit - sums.max) - log_sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor none, grad = gradients[0].contiguous();
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    if (context->saved_data["frozen"].toBool())
      return {(saved[0] * grad.unsqueeze(1)).to(dtype), none, none, none, none};
    const at::Tensor &hidden = saved[0], &weight = saved[1], &targets = saved[2], &lse = saved[3];
    const int64_t count = hidden.size(0), vocab = weight.size(0);
    const Blocks blocks = block_shape(count, vocab);
    // Sums over blocks stay in f32 also for bf16 weights.
    at::Tensor grad_hidden = at::zeros(hidden.sizes(), hidden.options().dtype(at::kFloat)), grad_weight;
    if (context->needs_input_grad(1)) grad_weight = at::zeros(weight.sizes(), weight.options().dtype(at::kFloat));
    for (int64_t row = 0; row < count; row += blocks.rows) {
      const int64_t rows = std::min(blocks.rows, count - row);
      const at::Tensor x = hidden.narrow(0, row, rows);
      at::Tensor grad_x = grad_hidden.narrow(0, row, rows);
      for (int64_t column = 0; column < vocab; column += blocks.columns) {
        const int64_t columns = std::min(blocks.columns, vocab - column);
        at::Tensor dz = logits_block(x, weight, column, columns);
        backward_in_place(dz, column, targets.const_data_ptr<int32_t>() + row, lse.const_data_ptr<float>() + row,
                          grad.const_data_ptr<float>() + row);
        add_input_gradient(dz, weight, column, grad_x);
        if (grad_weight.defined()) add_weight_gradient(dz, x, column, grad_weight);
      }
    }
    return {grad_hidden.to(dtype), grad_weight.defined() ? grad_weight.to(weight.scalar_type()) : none, none, none,
            none};
  }
};

}  // namespace

at::Tensor selected_logprobs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                             TokenStatistics* statistics) {
  if (hidden.dim() != 2 || weight.dim() != 2 || hidden.size(1) != weight.size(1) || targets.numel() != hidden.size(0)) {
    fail(ErrorCode::INVALID_ARGUMENT, "selected_logprobs: expected hidden [n, d], weight [vocab, d], targets [n], got ",
         hidden.sizes(), ", ", weight.sizes(), ", ", targets.sizes());
  }
  const bool frozen = at::GradMode::is_enabled() && hidden.requires_grad() && !weight.requires_grad();
  return SelectedLogprobs::apply(hidden.contiguous(), weight.contiguous(), targets.to(at::kInt).contiguous(),
                                 statistics, frozen);
}

}  // namespace stepward
