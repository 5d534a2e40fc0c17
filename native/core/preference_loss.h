// The preference loss kernel on tensors of any device.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "kernels/preference_loss.h"

namespace stepward {

// "sigmoid", "ipo", "hinge", "robust", "sigmoid_norm" or "simpo"; anything else is INVALID_ARGUMENT.
kernels::PreferenceLossKind preference_loss_kind(const std::string& name);

struct PreferenceLossTensors {
  at::Tensor policy_chosen, policy_rejected;        // [P] f64
  at::Tensor reference_chosen, reference_rejected;  // [P] f64; undefined for simpo, which has no reference
  at::Tensor weight;                                // [P] f32
  at::Tensor chosen_length, rejected_length;        // [P] i32
  at::Tensor mix;                                   // [P] f32, or undefined: 1 for every pair
};

struct PreferenceLossOutput {
  at::Tensor loss, grad_chosen, grad_rejected;  // [P] f64: weighted loss, and its gradients in the policy's log-probs
};

PreferenceLossOutput preference_loss(const PreferenceLossTensors& in, const kernels::PreferenceLossParams& params);

}  // namespace stepward
