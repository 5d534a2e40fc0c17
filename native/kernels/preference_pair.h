// The loss and gradient of one pair, shared by both twins of preference_loss.h. In double throughout, so that margins
// of either sign and any size neither overflow nor cancel; nothing is clamped, a NaN or infinity comes out as it is.
#pragma once

#include <cmath>

#include "exact_float.h"
#include "preference_loss.h"

namespace stepward::kernels {

struct PairLoss {
  double loss, grad_chosen, grad_rejected;  // before the weight
};

// -log sigmoid(x)
STEPWARD_HOST_DEVICE double negative_log_sigmoid(double x) {
  return (x < 0.0 ? -x : 0.0) + log1p(exp(-fabs(x)));
}

// sigmoid(x)
STEPWARD_HOST_DEVICE double sigmoid(double x) {
  return 1.0 / (1.0 + exp(-x));
}

STEPWARD_HOST_DEVICE double at_least_one(int32_t length) {
  return length > 1 ? static_cast<double>(length) : 1.0;
}

// A loss of the difference of two log-ratios (of log-probs, for simpo), and its slope.
struct DifferenceLoss {
  double loss, slope;
};

// One formula of preference_loss.h at a difference r(w) - r(l), per token where the kind takes it so.
STEPWARD_HOST_DEVICE DifferenceLoss loss_of_difference(double difference, const PreferenceLossParams& params) {
  const double beta = params.beta;
  const double smoothing = params.label_smoothing;
  double margin = beta * difference;
  double loss = 0.0;
  double slope = 0.0;
  switch (params.kind) {
    case PreferenceLossKind::simpo:
      margin -= params.gamma;
      [[fallthrough]];
    case PreferenceLossKind::sigmoid:
      loss = (1.0 - smoothing) * negative_log_sigmoid(margin);
      slope = -(1.0 - smoothing) * beta * sigmoid(-margin);
      if (smoothing != 0.0) {
        loss += smoothing * negative_log_sigmoid(-margin);
        slope += smoothing * beta * sigmoid(margin);
      }
      break;
    case PreferenceLossKind::sigmoid_norm:
      loss = negative_log_sigmoid(margin);
      slope = -beta * sigmoid(-margin);
      break;
    case PreferenceLossKind::robust: {
      const double scale = 1.0 / (1.0 - 2.0 * smoothing);
      loss = (1.0 - smoothing) * scale * negative_log_sigmoid(margin);
      slope = -(1.0 - smoothing) * scale * beta * sigmoid(-margin);
      if (smoothing != 0.0) {
        loss -= smoothing * scale * negative_log_sigmoid(-margin);
        slope -= smoothing * scale * beta * sigmoid(margin);
      }
      break;
    }
    case PreferenceLossKind::hinge:
      // Written so that a NaN margin stays NaN. At the kink the slope is 0, as autograd's relu has it.
      loss = margin >= 1.0 ? 0.0 : 1.0 - margin;
      slope = margin >= 1.0 ? 0.0 : margin < 1.0 ? -beta : margin;
      break;
    case PreferenceLossKind::ipo: {
      const double error = difference - 1.0 / (2.0 * beta);
      loss = error * error;
      slope = 2.0 * error;
      break;
    }
  }
  return {loss, slope};
}

STEPWARD_HOST_DEVICE PairLoss preference_pair_loss(const PreferencePairs& in, const PreferenceLossParams& params,
                                                   int64_t i) {
  double chosen = in.policy_chosen[i], rejected = in.policy_rejected[i];
  if (params.kind != PreferenceLossKind::simpo) {  // log-ratios log pi(y) - log ref(y)
    chosen -= in.reference_chosen[i];
    rejected -= in.reference_rejected[i];
  }
  double per_chosen = 1.0, per_rejected = 1.0;
  if (params.kind == PreferenceLossKind::ipo || params.kind == PreferenceLossKind::sigmoid_norm ||
      params.kind == PreferenceLossKind::simpo) {
    per_chosen = 1.0 / at_least_one(in.chosen_length[i]);
    per_rejected = 1.0 / at_least_one(in.rejected_length[i]);
  }
  const double difference = chosen * per_chosen - rejected * per_rejected;
  const double mix = in.mix ? static_cast<double>(in.mix[i]) : 1.0;
  // A side of share 0 is left out, not multiplied: where its loss is infinite, 0 times it would be NaN.
  DifferenceLoss total = {0.0, 0.0};
  if (mix != 0.0) {
    const DifferenceLoss side = loss_of_difference(difference, params);
    total = {mix * side.loss, mix * side.slope};
  }
  if (mix != 1.0) {
    const DifferenceLoss side = loss_of_difference(-difference, params);
    total = {total.loss + (1.0 - mix) * side.loss, total.slope - (1.0 - mix) * side.slope};
  }
  return {total.loss, total.slope * per_chosen, -total.slope * per_rejected};
}

}  // namespace stepward::kernels
