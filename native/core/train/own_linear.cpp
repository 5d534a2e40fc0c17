#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/held.h"
#include "core/train/own_ops.h"
#include "core/train/tensor_products.h"

namespace stepward {
namespace {

using Again = std::shared_ptr<Recomputed>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct OwnLinear : torch::autograd::Function<OwnLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const Again& again) {
    at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    times_transposed(x, weight, y);
    // x is for the weight's gradient alone.
    const bool reads_x = weight.requires_grad();
    context->save_for_backward({weight, reads_x && !again ? x : at::Tensor()});
    if (reads_x && again) {
      again->expect();
      context->saved_data["again"] = hold(again);
    }
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &weight = saved[0], dy = gradients[0].contiguous();
    at::Tensor dx, dweight;
    if (context->needs_input_grad(0)) {
      dx = at::empty({dy.size(0), weight.size(1)}, dy.options());
      times(dy, weight, dx);
    }
    if (context->needs_input_grad(1)) {
      const auto again = context->saved_data.find("again");
      const at::Tensor x = again == context->saved_data.end() ? saved[1] : held<Again>(again->second)->take();
      dweight = at::empty(weight.sizes(), dy.options());
      over_tokens(dy, x, dweight);
    }
    return {dx, dweight, at::Tensor()};
  }
};

}  // namespace

at::Tensor own_linear(const at::Tensor& x, const Again& again, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor y = OwnLinear::apply(x.contiguous(), weight.contiguous(), again);
  return bias.defined() ? y + bias : y;
}

}  // namespace stepward
