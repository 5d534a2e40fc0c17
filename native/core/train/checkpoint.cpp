#include "core/train/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/held.h"

namespace stepward {
namespace {

using Part = std::function<at::Tensor(const at::Tensor&)>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  // `mark` requires a gradient, so that the result does even where x, say an embedding that is not trained, does not.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& /*mark*/,
                            const Part& part) {
    context->save_for_backward({x});
    context->saved_data["part"] = hold(part);
    return part(x);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Part part = held<Part>(context->saved_data["part"]);
    const at::Tensor x = context->get_saved_variables()[0].detach().set_requires_grad(context->needs_input_grad(0));
    const at::AutoGradMode with_grad(true);
    torch::autograd::backward({part(x)}, {gradients[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor checkpoint(const Part& part, const at::Tensor& x) {
  return Checkpoint::apply(x, at::empty({0}, x.options().requires_grad(false)).set_requires_grad(true), part);
}

}  // namespace stepward
