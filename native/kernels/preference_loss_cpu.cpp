// CPU twin of preference_loss.h.
#include "preference_loss.h"

#include "preference_pair.h"

namespace stepward::kernels {

void preference_loss_cpu(const PreferencePairs& in, const PreferenceLossParams& params,
                         const PreferenceGradients& out) {
  for (int64_t i = 0; i < in.pairs; ++i) {
    const PairLoss pair = preference_pair_loss(in, params, i);
    const double weight = in.weight[i];
    out.loss[i] = weight * pair.loss;
    out.grad_chosen[i] = weight * pair.grad_chosen;
    out.grad_rejected[i] = weight * pair.grad_rejected;
  }
}

}  // namespace stepward::kernels
