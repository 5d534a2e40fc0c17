#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/held.h"
#include "core/train/ops.h"

namespace stepward {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Plan = std::shared_ptr<const kernels::AttentionPlan>;

kernels::TreeAttention job_of(const Plan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              int64_t window) {
  return {plan.get(),
          q.size(0),
          q.size(1),
          k.size(1),
          q.size(2),
          window,
          1.0f / std::sqrt(static_cast<float>(q.size(2))),
          at::get_num_threads(),
          q.const_data_ptr<float>(),
          k.const_data_ptr<float>(),
          v.const_data_ptr<float>()};
}

struct OwnAttention : torch::autograd::Function<OwnAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Plan& plan, int64_t window) {
    at::Tensor out = at::empty_like(q), lse = at::empty({q.size(0), q.size(1)}, q.options());
    kernels::tree_attention_forward_cpu(job_of(plan, q, k, v, window), out.data_ptr<float>(), lse.data_ptr<float>());
    context->save_for_backward({q, k, v, out, lse});
    context->saved_data["plan"] = hold(plan);
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const Plan plan = held<Plan>(context->saved_data["plan"]);
    const at::Tensor grad = gradients[0].contiguous();
    at::Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    kernels::tree_attention_backward_cpu(job_of(plan, q, k, v, context->saved_data["window"].toInt()),
                                         out.const_data_ptr<float>(), lse.const_data_ptr<float>(),
                                         grad.const_data_ptr<float>(), dq.data_ptr<float>(), dk.data_ptr<float>(),
                                         dv.data_ptr<float>());
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor tree_attention(const Plan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t window) {
  return OwnAttention::apply(q.contiguous(), k.contiguous(), v.contiguous(), plan, window).flatten(1);
}

}  // namespace stepward
