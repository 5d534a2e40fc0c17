// One micro-batch read top to bottom: log-probs of the forest, sums per completion, the loss and its gradient over the
// pairs, and back through the forest.
#include "stepward/trainer.h"

#include <cmath>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/completions.h"
#include "core/lora.h"
#include "core/optimizer.h"
#include "core/preference_loss.h"
#include "core/tensors.h"
#include "stepward/error.h"
#include "stepward/score.h"

namespace stepward {
namespace {

void check_loss(const PreferenceBatch& batch) {
  const int64_t completions = static_cast<int64_t>(batch.completion_offsets.size()) - 1;
  if (static_cast<int64_t>(batch.reference.size()) != completions) {
    fail(ErrorCode::INVALID_ARGUMENT, "reference: expected one log-prob per completion (", completions, "), got ",
         batch.reference.size());
  }
  if (!(batch.beta > 0)) fail(ErrorCode::INVALID_ARGUMENT, "beta: expected a number > 0, got ", batch.beta);
  if (!(batch.label_smoothing >= 0 && batch.label_smoothing < 0.5f)) {
    fail(ErrorCode::INVALID_ARGUMENT, "labelSmoothing: expected a number in [0, 0.5), got ", batch.label_smoothing);
  }
  if (!(batch.sft_weight >= 0))
    fail(ErrorCode::INVALID_ARGUMENT, "sftWeight: expected a number >= 0, got ", batch.sft_weight);
  if (!(batch.pair_norm > 0))
    fail(ErrorCode::INVALID_ARGUMENT, "pairNorm: expected a number > 0, got ", batch.pair_norm);
  if (batch.sft_weight > 0 && !(batch.token_norm > 0))
    fail(ErrorCode::INVALID_ARGUMENT, "tokenNorm: expected a number > 0, got ", batch.token_norm);
}

}  // namespace

struct Trainer::State {
  Model& model;
  TrainerOptions options;
  std::vector<Parameter> parameters;
  std::optional<Optimizer> optimizer;

  bool merged = false;

  // A step that failed must not leave half its gradients behind, whatever failed in it.
  template <typename Work>
  auto guarded(const Work& work) {
    at::AutoGradMode with_grad(true);
    try {
      if (merged)
        fail(ErrorCode::INVALID_ARGUMENT, "this trainer's adapter was merged: there is nothing left to train");
      return work();
    } catch (...) {
      optimizer->zero_grad();
      throw;
    }
  }
};

Trainer::Trainer(Model& model, const TrainerOptions& options) : state_(new State{model, options, {}, std::nullopt}) {
  try {
    if (options.lora.rank != 0) {
      state_->parameters = add_lora(model, options.lora);
    } else {
      for (const auto& [name, tensor] : model.weights()) state_->parameters.push_back({name, tensor});
    }
    state_->optimizer.emplace(state_->parameters, options);
  } catch (...) {
    remove_lora(model);  // no destructor runs: the next trainer would find, train and save the adapters made so far
    throw;
  }
  for (Parameter& parameter : state_->parameters) parameter.tensor.set_requires_grad(true);
}

Trainer::~Trainer() {
  for (Parameter& parameter : state_->parameters) {
    parameter.tensor.mutable_grad() = at::Tensor();
    parameter.tensor.set_requires_grad(false);
  }
  remove_lora(state_->model);
  state_->model.weights_changed();
}

PreferenceResult Trainer::accumulate(const PreferenceBatch& batch, const CancelFlag& cancel) {
  Model& model = state_->model;
  return state_->guarded([&] {
    cancel.check();
    check_completions(model, batch);
    check_loss(batch);
    const kernels::PreferenceLossParams params{preference_loss_kind(batch.loss), batch.beta, batch.label_smoothing};
    const CompletionLogprobs completions = completion_logprobs(model, batch);
    const at::Device device = model.device();
    const at::Tensor policy = completions.values.detach().to(at::kFloat),
                     reference = float_tensor(batch.reference, device);
    const at::Tensor chosen = index_tensor(batch.chosen, device), rejected = index_tensor(batch.rejected, device);
    const at::Tensor lengths = index_tensor(completions.lengths, device).to(at::kInt),
                     weight = float_tensor(batch.weight, device);
    const auto of = [](const at::Tensor& values, const at::Tensor& side) { return values.index_select(0, side); };

    const PreferenceLossOutput pairs =
        preference_loss({of(policy, chosen), of(policy, rejected), of(reference, chosen), of(reference, rejected),
                         weight, of(lengths, chosen), of(lengths, rejected)},
                        params);
    at::Tensor grad = at::zeros_like(completions.values);
    grad.index_add_(0, chosen, pairs.grad_chosen.to(at::kDouble) / batch.pair_norm);
    grad.index_add_(0, rejected, pairs.grad_rejected.to(at::kDouble) / batch.pair_norm);

    PreferenceResult result;
    result.pair_loss = to_floats(pairs.loss);
    result.loss = pairs.loss.to(at::kDouble).sum().item<double>() / batch.pair_norm;
    if (batch.token_norm > 0) {
      // Mean negative log-prob of the chosen tokens (the NLL term of arXiv 2404.19733 eq. 2, over tokens of the step's
      // pairs).
      const at::Tensor nll_weight = weight.to(at::kDouble) / batch.token_norm;
      result.sft_loss = -(of(completions.values.detach(), chosen) * nll_weight).sum().item<double>();
      if (batch.sft_weight > 0) {
        result.loss += batch.sft_weight * result.sft_loss;
        grad.index_add_(0, chosen, nll_weight * -batch.sft_weight);
      }
    }
    if (!std::isfinite(result.loss)) fail(ErrorCode::NUMERICAL, "the preference loss is ", result.loss);
    cancel.check();
    torch::autograd::backward({completions.values}, {grad});
    result.completion_logprobs = to_floats(policy);
    result.computed_tokens = batch.forest.num_tokens();
    return result;
  });
}

SftResult Trainer::accumulate(const SftBatch& batch, const CancelFlag& cancel) {
  Model& model = state_->model;
  return state_->guarded([&] {
    cancel.check();
    validate_forest(batch.forest, model.config().vocab_size, model.config().max_positions);
    if (static_cast<int64_t>(batch.segment_weight.size()) != batch.forest.num_segments()) {
      fail(ErrorCode::INVALID_ARGUMENT, "segmentWeight: expected one entry per segment (", batch.forest.num_segments(),
           "), got ", batch.segment_weight.size());
    }
    if (!(batch.token_norm > 0))
      fail(ErrorCode::INVALID_ARGUMENT, "tokenNorm: expected a number > 0, got ", batch.token_norm);
    std::vector<uint8_t> scored;
    for (float weight : batch.segment_weight) scored.push_back(weight != 0);
    const ForestLogprobs tokens = forest_logprobs(model, batch.forest, scored);
    SftResult result;
    result.scored_tokens = static_cast<int64_t>(tokens.tokens.size());
    result.computed_tokens = batch.forest.num_tokens();
    if (result.scored_tokens == 0) return result;
    std::vector<float> weights;
    for (int32_t segment : tokens.segments) {
      weights.push_back(static_cast<float>(-batch.segment_weight[segment] / batch.token_norm));
    }
    const at::Tensor grad = float_tensor(weights, model.device());
    result.loss = (tokens.values.detach().to(at::kDouble) * grad).sum().item<double>();
    if (!std::isfinite(result.loss)) fail(ErrorCode::NUMERICAL, "the SFT loss is ", result.loss);
    cancel.check();
    torch::autograd::backward({tokens.values}, {grad});
    return result;
  });
}

std::vector<float> Trainer::reference_logprobs(const PreferenceBatch& batch, const CancelFlag& cancel) {
  cancel.check();
  at::NoGradGuard no_grad;
  check_completions(state_->model, batch);
  const Model::AdaptersOff off(state_->model);
  return to_floats(completion_logprobs(state_->model, batch).values);
}

double Trainer::apply(double learning_rate) {
  if (!(learning_rate >= 0))
    fail(ErrorCode::INVALID_ARGUMENT, "learningRate: expected a number >= 0, got ", learning_rate);
  state_->model.weights_changed();
  return state_->optimizer->step(learning_rate);
}

void Trainer::zero_grad() {
  state_->optimizer->zero_grad();
}

void Trainer::save_adapter(const std::filesystem::path& directory, const std::string& base_model) const {
  if (state_->options.lora.rank == 0 || state_->merged)
    fail(ErrorCode::INVALID_ARGUMENT, "saveAdapter: this trainer has no LoRA adapter");
  save_lora(state_->model, state_->options.lora, directory, base_model);
}

void Trainer::merge_adapter() {
  if (state_->options.lora.rank == 0 || state_->merged)
    fail(ErrorCode::INVALID_ARGUMENT, "mergeAdapter: this trainer has no LoRA adapter");
  merge_lora(state_->model);
  state_->model.weights_changed();
  state_->merged = true;
}

}  // namespace stepward
