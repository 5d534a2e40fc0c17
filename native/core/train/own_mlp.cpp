// A gated MLP as one step that keeps nothing of its own: gate and up, which are more than half of what a layer would keep,
// are made again in the backward pass, and their gradients take their places. Both passes take some rows at a time. What lives
// is three [rows, inner] tensors of one layer, where a step for each product would keep two of all rows for every layer and
// have six more on their way.
#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/held.h"
#include "core/train/own_ops.h"
#include "core/train/tensor_products.h"

namespace stepward {
namespace {

using Again = std::shared_ptr<Recomputed>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor projected(const at::Tensor& x, const at::Tensor& w) {
  at::Tensor y = at::empty({x.size(0), w.size(0)}, x.options());
  times_transposed(x, w, y);
  return y;
}

// The rows [0, tokens) in parts of about the same size, at most kMlpRows: body(first, count).
template <typename Body>
void each_part(int64_t tokens, const Body& body) {
  const int64_t parts = std::max<int64_t>(1, (tokens + kMlpRows - 1) / kMlpRows);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = tokens * part / parts;
    body(first, tokens * (part + 1) / parts - first);
  }
}

struct OwnGatedMlp : torch::autograd::Function<OwnGatedMlp> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& gate_weight,
                            const at::Tensor& up_weight, const at::Tensor& down_weight, const Again& again) {
    context->save_for_backward({gate_weight, up_weight, down_weight, again ? at::Tensor() : x});
    if (again) {
      again->expect();
      context->saved_data["again"] = hold(again);
    }
    at::Tensor y = at::empty({x.size(0), down_weight.size(0)}, x.options());
    each_part(x.size(0), [&](int64_t first, int64_t count) {
      const at::Tensor rows = x.narrow(0, first, count), gate = projected(rows, gate_weight);
      silu_mul_into(gate, projected(rows, up_weight), gate);
      times_transposed(gate, down_weight, y.narrow(0, first, count));
    });
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &gate_weight = saved[0], &up_weight = saved[1], &down_weight = saved[2];
    const auto again = context->saved_data.find("again");
    const at::Tensor x = again == context->saved_data.end() ? saved[3] : held<Again>(again->second)->take();
    const at::Tensor dy = gradients[0].contiguous();

    const auto wanted = [&](size_t input, const at::Tensor& like) {
      return context->needs_input_grad(input) ? at::empty_like(like) : at::Tensor();
    };
    const at::Tensor dx = wanted(0, x), dgate_weight = wanted(1, gate_weight), dup_weight = wanted(2, up_weight);
    const at::Tensor ddown_weight = wanted(3, down_weight);
    each_part(x.size(0), [&](int64_t first, int64_t count) {
      const bool add = first > 0;
      const at::Tensor x_rows = x.narrow(0, first, count), dy_rows = dy.narrow(0, first, count);
      const at::Tensor gate = projected(x_rows, gate_weight), up = projected(x_rows, up_weight);
      const at::Tensor activated = at::empty_like(gate);
      if (ddown_weight.defined()) {
        silu_mul_into(gate, up, activated);
        over_tokens(dy_rows, activated, ddown_weight, add);
      }
      const at::Tensor& dactivated = activated;
      times(dy_rows, down_weight, dactivated);
      silu_mul_gradient_into(gate, up, dactivated, gate, up);
      const at::Tensor &dgate = gate, &dup = up;
      if (dgate_weight.defined()) over_tokens(dgate, x_rows, dgate_weight, add);
      if (dup_weight.defined()) over_tokens(dup, x_rows, dup_weight, add);
      if (!dx.defined()) return;
      const at::Tensor dx_rows = dx.narrow(0, first, count);
      times(dgate, gate_weight, dx_rows);
      times(dup, up_weight, dx_rows, /*add=*/true);
    });
    return {dx, dgate_weight, dup_weight, ddown_weight, at::Tensor()};
  }
};

}  // namespace

at::Tensor own_gated_mlp(const at::Tensor& x, const Again& again, const at::Tensor& gate, const at::Tensor& up,
                         const at::Tensor& down) {
  return OwnGatedMlp::apply(x.contiguous(), gate.contiguous(), up.contiguous(), down.contiguous(), again);
}

}  // namespace stepward
