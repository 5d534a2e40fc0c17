// Activation checkpointing (arXiv 1604.06174): a part of a forward pass that keeps only its input, and runs again when its
// gradients are wanted.
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

namespace stepward {

// part(x), differentiable in x and in every leaf that the part reads. The part must give the same result again, and own
// what it needs: it is kept until the backward pass.
at::Tensor checkpoint(const std::function<at::Tensor(const at::Tensor&)>& part, const at::Tensor& x);

}  // namespace stepward
