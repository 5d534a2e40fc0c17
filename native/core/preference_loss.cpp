#include "core/preference_loss.h"

#include <ATen/ops/empty_like.h>

#include "stepward/error.h"

#ifdef STEPWARD_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace stepward {

kernels::PreferenceLossKind preference_loss_kind(const std::string& name) {
  using Kind = kernels::PreferenceLossKind;
  if (name == "sigmoid") return Kind::sigmoid;
  if (name == "ipo") return Kind::ipo;
  if (name == "hinge") return Kind::hinge;
  if (name == "robust") return Kind::robust;
  if (name == "sigmoid_norm") return Kind::sigmoid_norm;
  fail(ErrorCode::INVALID_ARGUMENT, "loss: expected sigmoid, ipo, hinge, robust or sigmoid_norm, got '", name, "'");
}

PreferenceLossOutput preference_loss(const PreferenceLossTensors& in, const kernels::PreferenceLossParams& params) {
  PreferenceLossOutput out{at::empty_like(in.policy_chosen), at::empty_like(in.policy_chosen),
                           at::empty_like(in.policy_chosen)};
  const kernels::PreferencePairs pairs{in.policy_chosen.numel(),
                                       in.policy_chosen.const_data_ptr<float>(),
                                       in.policy_rejected.const_data_ptr<float>(),
                                       in.reference_chosen.const_data_ptr<float>(),
                                       in.reference_rejected.const_data_ptr<float>(),
                                       in.weight.const_data_ptr<float>(),
                                       in.chosen_length.const_data_ptr<int32_t>(),
                                       in.rejected_length.const_data_ptr<int32_t>()};
  const kernels::PreferenceGradients gradients{out.loss.data_ptr<float>(), out.grad_chosen.data_ptr<float>(),
                                               out.grad_rejected.data_ptr<float>()};
#ifdef STEPWARD_CUDA
  if (in.policy_chosen.is_cuda()) {
    kernels::preference_loss_cuda(pairs, params, gradients, c10::cuda::getCurrentCUDAStream().stream());
    return out;
  }
#endif
  kernels::preference_loss_cpu(pairs, params, gradients);
  return out;
}

}  // namespace stepward
