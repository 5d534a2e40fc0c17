#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/own_ops.h"
#include "core/train/products.h"

namespace stepward {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct OwnLinear : torch::autograd::Function<OwnLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    product_transposed_weight(x.const_data_ptr<float>(), weight.const_data_ptr<float>(), x.size(0), x.size(1),
                              weight.size(0), y.data_ptr<float>());
    context->save_for_backward({x, weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = gradients[0].contiguous();
    const int64_t tokens = x.size(0), in = x.size(1), out = weight.size(0);
    at::Tensor dx, dweight;
    if (context->needs_input_grad(0)) {
      dx = at::empty({tokens, in}, x.options());
      product(dy.const_data_ptr<float>(), weight.const_data_ptr<float>(), tokens, out, in, dx.data_ptr<float>());
    }
    if (context->needs_input_grad(1)) {
      dweight = at::empty({out, in}, x.options());
      product_over_rows(dy.const_data_ptr<float>(), x.const_data_ptr<float>(), tokens, out, in,
                        dweight.data_ptr<float>());
    }
    return {dx, dweight};
  }
};

}  // namespace

at::Tensor own_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor y = OwnLinear::apply(x.contiguous(), weight.contiguous());
  return bias.defined() ? y + bias : y;
}

}  // namespace stepward
