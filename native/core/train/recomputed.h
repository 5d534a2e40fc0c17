// A tensor that is not kept for the backward pass, since it is cheaply made again from what is kept anyway: the inputs of
// linear layers that come from a norm or a gate are a third of all that a layer would keep.
#pragma once

#include <functional>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

namespace stepward {

class Recomputed {
 public:
  // `make` gives the tensor's very bits again, at any time before the backward pass has gone through what it reads.
  explicit Recomputed(std::function<at::Tensor()> make) : make_(std::move(make)) {}

  // In the forward pass: one more will call take().
  void expect() { ++expected_; }

  // In the backward pass. Made for the first that asks; the last lets go of it and of what it was made from, which else
  // would stay until the whole graph goes.
  at::Tensor take() {
    const at::NoGradGuard no_grad;
    if (!value_.defined()) value_ = make_();
    if (--expected_ > 0) return value_;
    make_ = nullptr;
    return std::exchange(value_, at::Tensor());
  }

 private:
  std::function<at::Tensor()> make_;
  int expected_ = 0;
  at::Tensor value_;
};

}  // namespace stepward
