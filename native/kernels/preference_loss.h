// Step-wise DPO and its relatives over vectors of pairs: small fp32 maths, forward and backward in one pass.
#pragma once

#include <cstdint>

namespace stepward::kernels {

enum class PreferenceLossKind : int32_t { sigmoid = 0, ipo = 1, hinge = 2, robust = 3, sigmoid_norm = 4 };

struct PreferenceLossParams {
  PreferenceLossKind kind = PreferenceLossKind::sigmoid;
  float beta = 0.1f;
  float label_smoothing = 0.0f;  // sigmoid: conservative DPO, [0, 0.5); robust: flip probability, [0, 0.5)
};

// Inputs, each [pairs] f32 except lengths [pairs] i32 (scored tokens of the completion, at least 1 is taken). The
// lengths are read by ipo and sigmoid_norm only and may be null for the others.
struct PreferencePairs {
  int64_t pairs;
  const float *policy_chosen, *policy_rejected, *reference_chosen, *reference_rejected, *weight;
  const int32_t *chosen_length, *rejected_length;
};

// Outputs, each [pairs] f32: loss[i] is already times weight[i]; the gradients are d loss[i] / d policy_*[i].
struct PreferenceGradients {
  float *loss, *grad_chosen, *grad_rejected;
};

// With the log-ratios r(y) = logp(y) - ref(y) of chosen w and rejected l, s = sigmoid and e = label_smoothing:
//   margin       m = beta * (r(w) - r(l));  L_i = weight_i * loss(m)      (PSRLM, arXiv 2503.03746, eq. 4)
//   sigmoid      -(1 - e) log s(m) - e log s(-m): DPO (arXiv 2305.18290, eq. 7) at e = 0, else conservative DPO
//                (Mitchell, "A note on DPO with noisy preferences", 2023). TRL's `sigmoid` has no smoothing.
//   robust       (-(1 - e) log s(m) + e log s(-m)) / (1 - 2 e): robust DPO (arXiv 2403.00409), e the chance of a
//                flipped label
//   hinge        max(0, 1 - m): SLiC-HF (arXiv 2305.10425) on DPO's margin, as in RSO (arXiv 2309.06657)
//   ipo          (d - 1 / (2 beta))^2, d = r(w) / |w| - r(l) / |l|: IPO (arXiv 2310.12036, eq. 17, beta its tau)
//                with the log-ratios per token, which its authors confirmed to TRL
//   sigmoid_norm -log s(beta * d), d as for ipo: length-normalised DPO (Tulu 3, arXiv 2411.15124, section 5)
// These are the definitions of TRL 1.16's DPOTrainer. Loss and gradients that are not finite come out as they are; a
// weight of 0 gives 0 where the loss is finite.
void preference_loss_cpu(const PreferencePairs& in, const PreferenceLossParams& params, const PreferenceGradients& out);

#ifdef STEPWARD_CUDA
void preference_loss_cuda(const PreferencePairs& in, const PreferenceLossParams& params, const PreferenceGradients& out,
                          void* stream);
#endif

}  // namespace stepward::kernels
