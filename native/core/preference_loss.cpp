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
  if (name == "simpo") return Kind::simpo;
  fail(ErrorCode::INVALID_ARGUMENT, "loss: expected sigmoid, ipo, hinge, robust, sigmoid_norm or simpo, got '", name,
       "'");
}

PreferenceLossOutput preference_loss(const PreferenceLossTensors& in, const kernels::PreferenceLossParams& params) {
  PreferenceLossOutput out{at::empty_like(in.policy_chosen), at::empty_like(in.policy_chosen),
                           at::empty_like(in.policy_chosen)};
  const auto given = [](const at::Tensor& tensor, auto pointer) {
    return tensor.defined() ? pointer(tensor) : nullptr;
  };
  const auto doubles = [](const at::Tensor& tensor) { return tensor.const_data_ptr<double>(); };
  const auto floats = [](const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); };
  const kernels::PreferencePairs pairs{in.policy_chosen.numel(),
                                       doubles(in.policy_chosen),
                                       doubles(in.policy_rejected),
                                       given(in.reference_chosen, doubles),
                                       given(in.reference_rejected, doubles),
                                       floats(in.weight),
                                       in.chosen_length.const_data_ptr<int32_t>(),
                                       in.rejected_length.const_data_ptr<int32_t>(),
                                       given(in.mix, floats)};
  const kernels::PreferenceGradients gradients{out.loss.data_ptr<double>(), out.grad_chosen.data_ptr<double>(),
                                               out.grad_rejected.data_ptr<double>()};
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
