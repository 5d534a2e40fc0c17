// One micro-batch read top to bottom: log-probs of the forest, sums per completion, the loss and its gradient over the
// pairs, and back through the forest.
#include "stepward/trainer.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/ScopeExit.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/completions.h"
#include "core/freeze.h"
#include "core/lora.h"
#include "core/optimizer.h"
#include "core/optimizer_state.h"
#include "core/peft.h"
#include "core/preference_loss.h"
#include "core/tensors.h"
#include "core/train/memory.h"
#include "core/train/tensor_memory.h"
#include "stepward/error.h"
#include "stepward/score.h"

namespace stepward {
namespace {

void check_loss(const PreferenceBatch& batch, kernels::PreferenceLossKind kind) {
  const int64_t completions = static_cast<int64_t>(batch.completion_offsets.size()) - 1;
  if (kind != kernels::PreferenceLossKind::simpo && static_cast<int64_t>(batch.reference.size()) != completions) {
    fail(ErrorCode::INVALID_ARGUMENT, "reference: expected one log-prob per completion (", completions, "), got ",
         batch.reference.size());
  }
  if (!batch.mix.empty() && batch.mix.size() != batch.chosen.size()) {
    fail(ErrorCode::INVALID_ARGUMENT, "mix: expected one entry per pair (", batch.chosen.size(), ") or none, got ",
         batch.mix.size());
  }
  for (size_t i = 0; i < batch.mix.size(); ++i) {
    if (!(batch.mix[i] >= 0 && batch.mix[i] <= 1))
      fail(ErrorCode::INVALID_ARGUMENT, "mix[", i, "]: expected a number from 0 to 1, got ", batch.mix[i]);
  }
  if (!(batch.beta > 0)) fail(ErrorCode::INVALID_ARGUMENT, "beta: expected a number > 0, got ", batch.beta);
  if (!(batch.label_smoothing >= 0 && batch.label_smoothing < 0.5f)) {
    fail(ErrorCode::INVALID_ARGUMENT, "labelSmoothing: expected a number in [0, 0.5), got ", batch.label_smoothing);
  }
  if (!(batch.gamma >= 0)) fail(ErrorCode::INVALID_ARGUMENT, "gamma: expected a number >= 0, got ", batch.gamma);
  if (!(batch.sft_weight >= 0))
    fail(ErrorCode::INVALID_ARGUMENT, "sftWeight: expected a number >= 0, got ", batch.sft_weight);
  if (!(batch.pair_norm > 0))
    fail(ErrorCode::INVALID_ARGUMENT, "pairNorm: expected a number > 0, got ", batch.pair_norm);
  if (batch.sft_weight > 0 && !(batch.token_norm > 0))
    fail(ErrorCode::INVALID_ARGUMENT, "tokenNorm: expected a number > 0, got ", batch.token_norm);
}

PreferenceStatistics statistics_of(const PreferenceBatch& batch, const CompletionLogprobs& completions) {
  const std::vector<double> correct = to_doubles(completions.statistics[0]),
                            entropy = to_doubles(completions.statistics[1]),
                            logits = to_doubles(completions.statistics[2]);
  PreferenceStatistics sums;
  for (size_t p = 0; p < batch.chosen.size(); ++p) {
    const int32_t w = batch.chosen[p], l = batch.rejected[p];
    sums.correct += correct[w];
    sums.entropy += entropy[w] + entropy[l];
    sums.logits_chosen += logits[w];
    sums.logits_rejected += logits[l];
    sums.chosen_tokens += completions.lengths[w];
    sums.rejected_tokens += completions.lengths[l];
  }
  return sums;
}

}  // namespace

struct Trainer::State {
  State(Model& model, const TrainerOptions& options)
      : memory(model.device().is_cpu() ? std::make_unique<TensorMemory>() : nullptr),
        base_bytes(resident_bytes(model.device())),
        model(model),
        options(options) {}

  std::unique_ptr<TensorMemory> memory;  // goes last
  int64_t base_bytes;                    // taken before this trainer
  Model& model;
  TrainerOptions options;
  std::vector<Parameter> parameters;
  std::vector<LoraPair> initial;  // of every adapter, where training started from one
  std::optional<Optimizer> optimizer;
  at::Tensor pending;       // [C] f64 log-probs of the last forward(), with its graph, until backward()
  std::string fingerprint;  // of the base weights, once an adapter was saved

  bool merged = false;

  // Gradients that were accumulated, and a forward() that was not followed by its backward().
  void drop() {
    pending.reset();
    optimizer->zero_grad();
  }

  // Adds the gradients of `values`, given theirs, to the parameters'.
  void backward(const at::Tensor& values, const at::Tensor& grad) {
    torch::autograd::backward({values}, {grad});
    optimizer->take_gradients();
  }

  bool has_adapter() const { return options.lora.rank != 0 && !merged; }

  // What is trained: adapters, or weights.
  void choose_parameters() {
    if (options.lora.rank == 0 && options.adapter.empty()) {
      parameters = trainable_weights(model, options.freeze);
      return;
    }
    if (!options.freeze.empty()) {
      fail(ErrorCode::INVALID_ARGUMENT,
           "freeze: with LoRA all weights are frozen; expected lora.targets to say which layers have adapters");
    }
    if (!options.adapter.empty()) {
      if (options.lora.rank != 0)
        fail(ErrorCode::INVALID_ARGUMENT, "adapter: expected no lora options beside it, the adapter has its own");
      options.lora = load_lora(model, options.adapter, options.allow_other_base);
      each_linear(model, [&](const std::string&, Linear& linear) {
        if (linear.lora) initial.push_back({linear.lora->a.clone(), linear.lora->b.clone(), linear.lora->scale});
      });
    } else {
      add_lora(model, options.lora);
    }
    parameters = lora_parameters(model);
    model.weights_changed();
  }

  // Puts the adapters that training started from in the place of the trained ones, or takes them out again.
  void swap_initial() {
    size_t next = 0;
    each_linear(model, [&](const std::string&, Linear& linear) {
      if (linear.lora) std::swap(*linear.lora, initial.at(next++));
    });
  }

  // A step that failed must not leave half its gradients behind, whatever failed in it.
  template <typename Work>
  auto guarded(const Work& work) {
    at::AutoGradMode with_grad(true);
    try {
      if (merged)
        fail(ErrorCode::INVALID_ARGUMENT, "this trainer's adapter was merged: there is nothing left to train");
      return work();
    } catch (...) {
      drop();
      throw;
    }
  }
};

Trainer::Trainer(Model& model, const TrainerOptions& options) : state_(new State(model, options)) {
  try {
    state_->choose_parameters();
    state_->optimizer.emplace(state_->parameters, options);
  } catch (...) {
    remove_lora(model);  // no destructor runs: the next trainer would find, train and save the adapters made so far
    throw;
  }
  for (Parameter& parameter : state_->parameters) parameter.tensor.set_requires_grad(true);
  model.set_checkpoint_layers(options.checkpoint_layers);
}

Trainer::~Trainer() {
  state_->pending.reset();  // its graph holds the weights that are about to be leaves no more
  for (Parameter& parameter : state_->parameters) {
    parameter.tensor.mutable_grad() = at::Tensor();
    parameter.tensor.set_requires_grad(false);
  }
  remove_lora(state_->model);
  state_->model.set_checkpoint_layers(false);
  state_->model.weights_changed();
}

PreferenceResult Trainer::accumulate(const PreferenceBatch& batch, const CancelFlag& cancel) {
  Model& model = state_->model;
  return state_->guarded([&] {
    state_->pending.reset();
    cancel.check();
    check_completions(model, batch);
    const kernels::PreferenceLossParams params{preference_loss_kind(batch.loss), batch.beta, batch.label_smoothing,
                                               batch.gamma};
    check_loss(batch, params.kind);
    const CompletionLogprobs completions = completion_logprobs(model, batch, true);
    const at::Device device = model.device();
    const at::Tensor policy = completions.values.detach();
    const at::Tensor chosen = index_tensor(batch.chosen, device), rejected = index_tensor(batch.rejected, device);
    const at::Tensor lengths = index_tensor(completions.lengths, device).to(at::kInt),
                     weight = float_tensor(batch.weight, device);
    const auto of = [](const at::Tensor& values, const at::Tensor& side) { return values.index_select(0, side); };

    PreferenceLossTensors vectors;
    vectors.policy_chosen = of(policy, chosen);
    vectors.policy_rejected = of(policy, rejected);
    if (params.kind != kernels::PreferenceLossKind::simpo) {
      const at::Tensor reference = double_tensor(batch.reference, device);
      vectors.reference_chosen = of(reference, chosen);
      vectors.reference_rejected = of(reference, rejected);
    }
    vectors.weight = weight;
    vectors.chosen_length = of(lengths, chosen);
    vectors.rejected_length = of(lengths, rejected);
    if (!batch.mix.empty()) vectors.mix = float_tensor(batch.mix, device);
    const PreferenceLossOutput pairs = preference_loss(vectors, params);
    at::Tensor grad = at::zeros_like(policy);
    grad.index_add_(0, chosen, pairs.grad_chosen / batch.pair_norm);
    grad.index_add_(0, rejected, pairs.grad_rejected / batch.pair_norm);

    PreferenceResult result;
    result.pair_loss = to_floats(pairs.loss);
    result.loss = pairs.loss.sum().item<double>() / batch.pair_norm;
    if (batch.token_norm > 0) {
      // Mean negative log-prob of the chosen tokens (the NLL term of arXiv 2404.19733 eq. 2, over tokens of the step's
      // pairs).
      const at::Tensor nll_weight = weight.to(at::kDouble) / batch.token_norm;
      result.sft_loss = -(of(policy, chosen) * nll_weight).sum().item<double>();
      if (batch.sft_weight > 0) {
        result.loss += batch.sft_weight * result.sft_loss;
        grad.index_add_(0, chosen, nll_weight * -batch.sft_weight);
      }
    }
    if (!std::isfinite(result.loss)) fail(ErrorCode::NUMERICAL, "the preference loss is ", result.loss);
    cancel.check();
    state_->backward(completions.values, grad);
    result.completion_logprobs = to_doubles(policy);
    result.statistics = statistics_of(batch, completions);
    result.computed_tokens = batch.forest.num_tokens();
    return result;
  });
}

CompletionValues Trainer::forward(const PreferenceBatch& batch, const CancelFlag& cancel) {
  return state_->guarded([&] {
    state_->pending.reset();
    cancel.check();
    check_completions(state_->model, batch);
    const CompletionLogprobs completions = completion_logprobs(state_->model, batch, true);
    state_->pending = completions.values;
    return CompletionValues{to_doubles(completions.values), completions.lengths,
                            to_doubles(completions.statistics.flatten()), batch.forest.num_tokens()};
  });
}

void Trainer::backward(const std::vector<double>& grad, const CancelFlag& cancel) {
  state_->guarded([&] {
    const at::Tensor values = std::exchange(state_->pending, at::Tensor());
    cancel.check();
    if (!values.defined())
      fail(ErrorCode::INVALID_ARGUMENT, "backward: expected a forward just before it, there was none");
    if (static_cast<int64_t>(grad.size()) != values.numel()) {
      fail(ErrorCode::INVALID_ARGUMENT, "grad: expected one number per completion of the forward (", values.numel(),
           "), got ", grad.size());
    }
    for (size_t c = 0; c < grad.size(); ++c) {
      if (!std::isfinite(grad[c])) fail(ErrorCode::NUMERICAL, "grad[", c, "]: expected a finite number, got ", grad[c]);
    }
    state_->backward(values, double_tensor(grad, state_->model.device()));
  });
}

SftResult Trainer::accumulate(const SftBatch& batch, const CancelFlag& cancel) {
  Model& model = state_->model;
  return state_->guarded([&] {
    state_->pending.reset();
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
    const ForestLogprobs tokens = forest_logprobs(model, batch.forest, scored, true);
    SftResult result;
    result.scored_tokens = static_cast<int64_t>(tokens.tokens.size());
    result.computed_tokens = batch.forest.num_tokens();
    if (result.scored_tokens == 0) return result;
    std::vector<float> weights;
    for (int32_t segment : tokens.segments) {
      weights.push_back(static_cast<float>(-batch.segment_weight[segment] / batch.token_norm));
    }
    const at::Tensor grad = float_tensor(weights, model.device()), share = grad.to(at::kDouble) * -batch.token_norm;
    result.correct = (tokens.statistics.correct * share).sum().item<double>();
    result.entropy = (tokens.statistics.entropy * share).sum().item<double>();
    result.logits = (tokens.statistics.mean_logit * share).sum().item<double>();
    result.weight = share.sum().item<double>();
    result.loss = (tokens.values.detach().to(at::kDouble) * grad).sum().item<double>();
    if (!std::isfinite(result.loss)) fail(ErrorCode::NUMERICAL, "the SFT loss is ", result.loss);
    cancel.check();
    state_->backward(tokens.values, grad);
    return result;
  });
}

std::vector<double> Trainer::reference_logprobs(const PreferenceBatch& batch, const CancelFlag& cancel) {
  cancel.check();
  at::NoGradGuard no_grad;
  check_completions(state_->model, batch);
  if (state_->initial.empty() || state_->merged) {
    const Model::AdaptersOff off(state_->model);
    return to_doubles(completion_logprobs(state_->model, batch).values);
  }
  state_->swap_initial();
  const auto back = c10::make_scope_exit([this] { state_->swap_initial(); });
  return to_doubles(completion_logprobs(state_->model, batch).values);
}

double Trainer::apply(double learning_rate) {
  if (!(learning_rate >= 0))
    fail(ErrorCode::INVALID_ARGUMENT, "learningRate: expected a number >= 0, got ", learning_rate);
  state_->pending.reset();
  state_->model.weights_changed();
  return state_->optimizer->step(learning_rate);
}

TrainingMemory Trainer::memory(const MicroBatchShape& shape) const {
  TrainableBytes trainable;
  const bool adamw = state_->options.optimizer == "adamw";
  for (const Parameter& parameter : state_->parameters) {
    const int64_t count = parameter.tensor.numel();
    int64_t bytes = count * static_cast<int64_t>(parameter.tensor.element_size());
    // Rows of an embedding's tokens alone, at first one for every token and then again for every one that is distinct.
    if (parameter.tensor.is_same(state_->model.embedding()) && !state_->model.config().tie_word_embeddings)
      bytes = std::min(bytes, bytes / parameter.tensor.size(0) * (shape.step_tokens + shape.tokens));
    trainable.gradients += bytes;
    // Of several micro-batches, beside the gradient that comes: the sum in float32 of those that came.
    if (parameter.tensor.scalar_type() != at::kFloat && shape.step_tokens > shape.tokens)
      trainable.gradients += bytes / static_cast<int64_t>(parameter.tensor.element_size()) * 4;
    trainable.optimizer += count * ((adamw ? 8 : 0) + (parameter.tensor.scalar_type() == at::kFloat ? 0 : 4));
    trainable.largest_gradient = std::max(trainable.largest_gradient, bytes);
  }
  return training_memory(state_->model, trainable, state_->base_bytes, shape);
}

void Trainer::set_checkpoint_layers(bool on) {
  state_->model.set_checkpoint_layers(on);
}

void Trainer::zero_grad() {
  state_->drop();
}

void Trainer::save_adapter(const std::filesystem::path& directory, const std::string& base_model) const {
  if (!state_->has_adapter()) fail(ErrorCode::INVALID_ARGUMENT, "saveAdapter: this trainer has no LoRA adapter");
  // The base does not change under its adapters, and hashing it takes a while.
  if (state_->fingerprint.empty()) state_->fingerprint = base_fingerprint(state_->model);
  save_lora(state_->model, state_->options.lora, directory, base_model, state_->fingerprint);
}

void Trainer::merge_adapter() {
  if (!state_->has_adapter()) fail(ErrorCode::INVALID_ARGUMENT, "mergeAdapter: this trainer has no LoRA adapter");
  state_->pending.reset();
  merge_lora(state_->model);
  state_->model.weights_changed();
  state_->merged = true;
}

void Trainer::save_state(const std::filesystem::path& file) const {
  if (state_->merged) fail(ErrorCode::INVALID_ARGUMENT, "saveState: this trainer's adapter was merged");
  write_optimizer_state(*state_->optimizer, file);
}

void Trainer::load_state(const std::filesystem::path& file, const std::filesystem::path& parameters) {
  if (state_->merged) fail(ErrorCode::INVALID_ARGUMENT, "loadState: this trainer's adapter was merged");
  Model& model = state_->model;
  const TensorMap moments = read_optimizer_state(*state_->optimizer, file);
  const TensorMap values =
      state_->has_adapter() ? read_adapter_values(parameters) : load_weights(parameters, model.config(), model.dtype());
  for (const Parameter& parameter : state_->parameters) {
    const auto found = values.find(parameter.name);
    if (found == values.end() || found->second.sizes() != parameter.tensor.sizes()) {
      fail(ErrorCode::CHECKPOINT_INVALID, parameters.string(), ": expected ", parameter.name, " of shape ",
           parameter.tensor.sizes(), found == values.end() ? ", which is missing" : ", got another shape");
    }
  }
  at::NoGradGuard no_grad;
  state_->drop();
  for (const Parameter& parameter : state_->parameters) parameter.tensor.detach().copy_(values.at(parameter.name));
  set_optimizer_state(*state_->optimizer, moments);
  model.weights_changed();
}

}  // namespace stepward
