// RMSNorm, rotary positions and SwiGLU row by row.
#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/train/own_ops.h"
#include "kernels/decoder_rows.h"
#include "kernels/row_gradients.h"

namespace stepward {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Values worth a thread of their own, and rows whose share of a weight's gradient is added up alone: a fixed number, so
// that the sum does not depend on the threads.
constexpr int64_t kGrainValues = 16384, kSumRows = 64;

int64_t grain_of(int64_t columns) {
  return std::max<int64_t>(1, kGrainValues / columns);
}

struct OwnRmsNorm : torch::autograd::Function<OwnRmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const int64_t n = weight.numel(), rows = x.numel() / n;
    at::Tensor y = at::empty_like(x);
    const float *from = x.const_data_ptr<float>(), *w = weight.const_data_ptr<float>();
    float* to = y.data_ptr<float>();
    at::parallel_for(0, rows, grain_of(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        kernels::decoder_row_ops().rms_norm(from + r * n, n, static_cast<float>(eps), w, to + r * n);
    });
    context->save_for_backward({x, weight});
    context->saved_data["eps"] = eps;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = gradients[0].contiguous();
    const float eps = static_cast<float>(context->saved_data["eps"].toDouble());
    const int64_t n = weight.numel(), rows = x.numel() / n, groups = (rows + kSumRows - 1) / kSumRows;
    const bool sums = context->needs_input_grad(1);
    at::Tensor dx = at::empty_like(x), dweight;
    if (sums) dweight = at::zeros({groups, n}, x.options());
    const float *from = x.const_data_ptr<float>(), *w = weight.const_data_ptr<float>(), *g = dy.const_data_ptr<float>();
    float *to = dx.data_ptr<float>(), *sum = sums ? dweight.data_ptr<float>() : nullptr;
    at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin * kSumRows; r < std::min(rows, end * kSumRows); ++r) {
        kernels::row_gradient_ops().rms_norm(from + r * n, n, eps, w, g + r * n, to + r * n,
                                             sums ? sum + r / kSumRows * n : nullptr);
      }
    });
    return {dx, sums ? dweight.sum(0) : at::Tensor(), at::Tensor()};
  }
};

// x [T, heads, head_dim] rotated by cos and sin [T, 1, head_dim / 2].
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  at::Tensor y = x.clone(at::MemoryFormat::Contiguous);
  const int64_t heads = x.size(1), dim = x.size(2), half = dim / 2;
  const float *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
  float* data = y.data_ptr<float>();
  at::parallel_for(0, x.size(0), grain_of(heads * dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h)
        kernels::decoder_row_ops().rotate(data + (t * heads + h) * dim, half, c + t * half, s + t * half, 1.0f);
    }
  });
  return y;
}

struct OwnRotate : torch::autograd::Function<OwnRotate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotated(x, cos, sin);
  }
  // The inverse of a rotation is its transpose.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    return {rotated(gradients[0], saved[0], saved[1].neg()), at::Tensor(), at::Tensor()};
  }
};

struct OwnSiluMul : torch::autograd::Function<OwnSiluMul> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    at::Tensor h = at::empty_like(gate);
    silu_mul_into(gate, up, h);
    context->save_for_backward({gate, up});
    return h;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], dh = gradients[0].contiguous();
    at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    silu_mul_gradient_into(gate, up, dh, dgate, dup);
    return {dgate, dup};
  }
};

}  // namespace

void silu_mul_into(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& h) {
  const float *g = gate.const_data_ptr<float>(), *u = up.const_data_ptr<float>();
  float* to = h.data_ptr<float>();
  at::parallel_for(0, gate.size(0), grain_of(gate.size(1)), [&](int64_t begin, int64_t end) {
    const int64_t from = begin * gate.size(1);
    kernels::decoder_row_ops().silu_mul(g + from, u + from, (end - begin) * gate.size(1), to + from);
  });
}

void silu_mul_gradient_into(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& dh, const at::Tensor& dgate,
                            const at::Tensor& dup) {
  const float *g = gate.const_data_ptr<float>(), *u = up.const_data_ptr<float>(), *d = dh.const_data_ptr<float>();
  float *dg = dgate.data_ptr<float>(), *du = dup.data_ptr<float>();
  at::parallel_for(0, gate.size(0), grain_of(gate.size(1)), [&](int64_t begin, int64_t end) {
    const int64_t from = begin * gate.size(1);
    kernels::row_gradient_ops().silu_mul(g + from, u + from, d + from, (end - begin) * gate.size(1), dg + from,
                                         du + from);
  });
}

at::Tensor own_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return OwnRmsNorm::apply(x.contiguous(), weight.contiguous(), eps);
}

at::Tensor own_rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return OwnRotate::apply(x, cos.contiguous(), sin.contiguous());
}

at::Tensor own_silu_mul(const at::Tensor& gate, const at::Tensor& up) {
  return OwnSiluMul::apply(gate.contiguous(), up.contiguous());
}

}  // namespace stepward
