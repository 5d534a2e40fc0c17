// Step-wise DPO and its relatives over vectors of pairs, forward and backward in one pass. Log-probs are float64: a
// completion's sum of hundreds of nats has a float32 spacing that a margin would show.
#pragma once

#include <cstdint>

namespace stepward::kernels {

enum class PreferenceLossKind : int32_t { sigmoid = 0, ipo = 1, hinge = 2, robust = 3, sigmoid_norm = 4, simpo = 5 };

struct PreferenceLossParams {
  PreferenceLossKind kind = PreferenceLossKind::sigmoid;
  float beta = 0.1f;
  float label_smoothing = 0.0f;  // sigmoid, simpo: conservative, [0, 0.5); robust: flip probability, [0, 0.5)
  float gamma = 0.0f;            // simpo: the margin that the chosen one is to be ahead by, at least 0
};

// Inputs, each [pairs]: log-probs f64, weight f32, lengths i32 (scored tokens of the completion, at least 1 is taken).
// The reference is not read by simpo, the lengths are read by ipo, sigmoid_norm and simpo only; what is not read may be
// null. `mix` f32 in [0, 1] may be null: then it is 1 for every pair.
struct PreferencePairs {
  int64_t pairs;
  const double *policy_chosen, *policy_rejected, *reference_chosen, *reference_rejected;
  const float* weight;
  const int32_t *chosen_length, *rejected_length;
  const float* mix = nullptr;
};

// Outputs, each [pairs] f64: loss[i] is already times weight[i]; the gradients are d loss[i] / d policy_*[i].
struct PreferenceGradients {
  double *loss, *grad_chosen, *grad_rejected;
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
//   simpo        -(1 - e) log s(m) - e log s(-m), m = beta * (logp(w) / |w| - logp(l) / |l|) - gamma: SimPO
//                (arXiv 2405.14734, eq. 6), which has no reference; smoothing as TRL adds it
// These are the definitions of TRL 1.16's DPOTrainer, and of its CPOTrainer for simpo. With mix c the loss of a pair is
//   c * loss(chosen, rejected) + (1 - c) * loss(rejected, chosen)
// CREAM's regularised loss (arXiv 2410.12735), c being how sure the label is; 1 leaves the loss as it is.
// Loss and gradients that are not finite come out as they are; a weight of 0 gives 0 where the loss is finite.
void preference_loss_cpu(const PreferencePairs& in, const PreferenceLossParams& params, const PreferenceGradients& out);

#ifdef STEPWARD_CUDA
void preference_loss_cuda(const PreferencePairs& in, const PreferenceLossParams& params, const PreferenceGradients& out,
                          void* stream);
#endif

}  // namespace stepward::kernels
