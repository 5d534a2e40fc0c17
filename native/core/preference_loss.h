// The preference loss kernel on tensors of any device.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "kernels/preference_loss.h"

namespace stepward {

// "sigmoid", "ipo", "hinge", "robust" or "sigmoid_norm"; anything else is INVALID_ARGUMENT.
kernels::PreferenceLossKind preference_loss_kind(const std::string& name);

struct PreferenceLossTensors {
  at::Tensor policy_chosen, policy_rejected, reference_chosen, reference_rejected, weight;  // [P] f32
  at::Tensor chosen_length, rejected_length;                                                // [P] i32
};

struct PreferenceLossOutput {
  at::Tensor loss, grad_chosen, grad_rejected;  // [P] f32: weighted loss, and its gradients in the policy's log-probs
};

PreferenceLossOutput preference_loss(const PreferenceLossTensors& in, const kernels::PreferenceLossParams& params);

}  // namespace stepward
