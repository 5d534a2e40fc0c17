// Gradients of packed forests against autograd on unpacked pairs with a full log-softmax, and the step itself.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/tensors.h"
#include "helpers/tiny_model.h"
#include "stepward/error.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::path_tokens;
using testing::tiny_model;

// prompt -> c1 -> c2, with two rejected after the prompt and one after c1; the first rejected weighs 0.5.
PreferenceBatch step_tree() {
  PreferenceBatch batch;
  batch.forest = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, {0, 3, 6, 8, 10, 12, 14}, {-1, 0, 1, 0, 0, 1}};
  batch.completion_offsets = {0, 1, 2, 3, 4, 5};
  batch.completion_segments = {1, 2, 3, 4, 5};
  batch.chosen = {0, 0, 1};
  batch.rejected = {2, 3, 4};
  batch.weight = {0.5f, 1.0f, 1.0f};
  batch.reference = {-9.0f, -7.5f, -8.0f, -6.0f, -5.0f};
  batch.beta = 0.3f;
  batch.pair_norm = 3;
  return batch;
}

at::Tensor plain_logprob(const Model& model, const Forest& forest, int32_t segment) {
  const std::vector<int32_t> tokens = path_tokens(forest, segment);
  const int64_t own = forest.offsets[segment + 1] - forest.offsets[segment],
                total = static_cast<int64_t>(tokens.size());
  const Forest alone = testing::chain(tokens);
  const at::Tensor logprobs = at::log_softmax(at::linear(model.forward(alone, pack_forest(alone)), model.head()), 1);
  at::Tensor sum = at::zeros({});
  for (int64_t i = total - own; i < total; ++i) sum = sum + logprobs[i - 1][tokens[i]];
  return sum;
}

std::map<std::string, at::Tensor> gradients_of(const Model& model) {
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, tensor] : model.weights()) gradients[name] = testing::gradient_of(tensor);
  return gradients;
}

void expect_close(const std::map<std::string, at::Tensor>& got, const std::map<std::string, at::Tensor>& expected,
                  double tolerance) {
  for (const auto& [name, tensor] : expected) {
    const double scale = tensor.norm().item<double>();
    EXPECT_LT((got.at(name) - tensor).norm().item<double>(), tolerance * std::max(scale, 1e-8))
        << name << " of norm " << scale;
  }
}

class TrainerTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(TrainerTest, StepTreeGradientsEqualUnpackedAutograd) {
  const auto model = tiny_model(GetParam().first, GetParam().second);
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  batch.sft_weight = 0.2f;
  batch.token_norm = 3 + 3 + 2;
  const PreferenceResult result = trainer.accumulate(batch, CancelFlag());
  const auto packed = gradients_of(*model);
  trainer.zero_grad();

  at::AutoGradMode with_grad(true);
  at::Tensor loss = at::zeros({}), nll = at::zeros({});
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const at::Tensor w = plain_logprob(*model, batch.forest, batch.completion_segments[batch.chosen[i]]);
    const at::Tensor l = plain_logprob(*model, batch.forest, batch.completion_segments[batch.rejected[i]]);
    const at::Tensor margin =
        ((w - batch.reference[batch.chosen[i]]) - (l - batch.reference[batch.rejected[i]])) * batch.beta;
    loss = loss - at::log_sigmoid(margin) * batch.weight[i] / 3.0;
    nll = nll - w * batch.weight[i] / batch.token_norm;
  }
  const at::Tensor total = loss + nll * 0.2f;
  total.backward();
  EXPECT_NEAR(result.loss, total.item<double>(), 1e-5);
  EXPECT_NEAR(result.sft_loss, nll.item<double>(), 1e-5);
  expect_close(packed, gradients_of(*model), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, TrainerTest,
                         ::testing::Values(std::pair{"llama", ""}, std::pair{"llama", "\"tie_word_embeddings\": true"},
                                           std::pair{"mistral", "\"sliding_window\": 4"}, std::pair{"qwen2", ""},
                                           std::pair{"qwen3", "\"head_dim\": 16"}));

TEST(Trainer, LossAtStepZeroIsLn2AndWeightZeroRemovesAPair) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  batch.weight = {1, 1, 1};
  batch.reference = trainer.reference_logprobs(batch, CancelFlag());
  EXPECT_NEAR(trainer.accumulate(batch, CancelFlag()).loss, std::log(2.0), 1e-6);
  trainer.zero_grad();

  batch.weight = {1, 0, 1};
  trainer.accumulate(batch, CancelFlag());
  const auto weighted = gradients_of(*model);
  trainer.zero_grad();
  batch.chosen = {0, 1};
  batch.rejected = {2, 4};
  batch.weight = {1, 1};
  trainer.accumulate(batch, CancelFlag());
  expect_close(weighted, gradients_of(*model), 1e-6);
}

TEST(Trainer, SimpoGradientsEqualAutogradAndReadNoReference) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  batch.loss = "simpo";
  batch.beta = 2.0f;
  batch.gamma = 0.5f;
  batch.reference.clear();
  const PreferenceResult result = trainer.accumulate(batch, CancelFlag());
  const auto packed = gradients_of(*model);
  trainer.zero_grad();

  at::AutoGradMode with_grad(true);
  at::Tensor loss = at::zeros({});
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const auto mean = [&](int32_t completion) {
      const int32_t segment = batch.completion_segments[completion];
      return plain_logprob(*model, batch.forest, segment) /
             (batch.forest.offsets[segment + 1] - batch.forest.offsets[segment]);
    };
    // arXiv 2405.14734, eq. 6
    const at::Tensor margin = (mean(batch.chosen[i]) - mean(batch.rejected[i])) * 2.0 - 0.5;
    loss = loss - at::log_sigmoid(margin) * batch.weight[i] / 3.0;
  }
  loss.backward();
  EXPECT_NEAR(result.loss, loss.item<double>(), 1e-5);
  expect_close(packed, gradients_of(*model), 1e-5);
}

TEST(Trainer, AMixIsTheLossOfBothOrdersOfThePair) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  batch.mix = {1.0f, 0.75f, 0.0f};
  const double mixed = trainer.accumulate(batch, CancelFlag()).loss;
  const auto expected = gradients_of(*model);
  trainer.zero_grad();
  PreferenceBatch orders = step_tree();  // the same as pairs of weight c and, the other way round, 1 - c
  orders.chosen = {0, 0, 3, 4};
  orders.rejected = {2, 3, 0, 1};
  orders.weight = {0.5f, 0.75f, 0.25f, 1.0f};
  EXPECT_NEAR(trainer.accumulate(orders, CancelFlag()).loss, mixed, 1e-12);
  expect_close(gradients_of(*model), expected, 1e-6);
}

TEST(Trainer, RefusesMixesAndMarginsThatAreNone) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  const auto message = [&](auto change) -> std::string {
    PreferenceBatch batch = step_tree();
    change(batch);
    try {
      trainer.accumulate(batch, CancelFlag());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.mix = {1, 0.5f}; }),
            "mix: expected one entry per pair (3) or none, got 2");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.mix = {1, 1.5f, 0}; }),
            "mix[1]: expected a number from 0 to 1, got 1.5");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.mix = {1, 1, NAN}; }),
            "mix[2]: expected a number from 0 to 1, got nan");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.gamma = -1; }), "gamma: expected a number >= 0, got -1");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.reference.clear(); }),
            "reference: expected one log-prob per completion (5), got 0");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.label_smoothing = 0.5f; }),
            "labelSmoothing: expected a number in [0, 0.5), got 0.5");
  EXPECT_EQ(message([](PreferenceBatch& batch) { batch.loss = "simple"; }),
            "loss: expected sigmoid, ipo, hinge, robust, sigmoid_norm or simpo, got 'simple'");
}

TEST(Trainer, CompletionLogprobsAreNotRoundedToFloat32) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  const PreferenceBatch batch = step_tree();
  const std::vector<double> reference = trainer.reference_logprobs(batch, CancelFlag());
  const PreferenceResult result = trainer.accumulate(batch, CancelFlag());
  EXPECT_EQ(result.completion_logprobs, reference);
  EXPECT_EQ(trainer.forward(batch, CancelFlag()).logprobs, reference);
  bool finer = false;
  for (const double value : reference) finer = finer || value != static_cast<double>(static_cast<float>(value));
  EXPECT_TRUE(finer);
}

// Any loss whose gradient in the log-probs is known trains like a built-in one.
class TrainerHalves : public ::testing::TestWithParam<bool> {};

TEST_P(TrainerHalves, ForwardAndBackwardAreAccumulate) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.checkpoint_layers = GetParam();
  Trainer trainer(*model, options);
  const PreferenceBatch batch = step_tree();
  trainer.accumulate(batch, CancelFlag());
  const auto expected = gradients_of(*model);
  trainer.zero_grad();

  PreferenceBatch completions;  // no pairs: those are the caller's
  completions.forest = batch.forest;
  completions.completion_offsets = batch.completion_offsets;
  completions.completion_segments = batch.completion_segments;
  const CompletionValues values = trainer.forward(completions, CancelFlag());
  EXPECT_EQ(values.lengths, (std::vector<int32_t>{3, 2, 2, 2, 2}));
  EXPECT_EQ(values.computed_tokens, 14);
  const double beta = batch.beta;
  std::vector<double> grad(5, 0.0);
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const int32_t w = batch.chosen[i], l = batch.rejected[i];
    const double margin =
        beta * ((values.logprobs[w] - batch.reference[w]) - (values.logprobs[l] - batch.reference[l]));
    const double slope = -beta / (1 + std::exp(margin)) * batch.weight[i] / 3;
    grad[w] += slope;
    grad[l] -= slope;
  }
  trainer.backward(grad, CancelFlag());
  expect_close(gradients_of(*model), expected, 1e-6);

  // Micro-batches add up.
  trainer.forward(completions, CancelFlag());
  trainer.backward(grad, CancelFlag());
  trainer.accumulate(batch, CancelFlag());
  std::map<std::string, at::Tensor> third;
  for (const auto& [name, gradient] : gradients_of(*model)) third[name] = gradient / 3;
  expect_close(third, expected, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(CheckpointLayers, TrainerHalves, ::testing::Bool());

TEST(Trainer, AForwardWithoutItsBackwardIsDroppedByWhateverComesNext) {
  const auto model = tiny_model();
  auto trainer = std::make_unique<Trainer>(*model, TrainerOptions{});
  const PreferenceBatch batch = step_tree();
  const std::vector<double> ones(5, 1.0);
  const auto refusal = [&]() -> std::string {
    try {
      trainer->backward(ones, CancelFlag());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const std::string none = "backward: expected a forward just before it, there was none";
  EXPECT_EQ(refusal(), none);

  trainer->accumulate(batch, CancelFlag());
  const auto expected = gradients_of(*model);
  trainer->zero_grad();
  trainer->forward(batch, CancelFlag());
  trainer->forward(batch, CancelFlag());  // the first is given up, and leaves no gradient
  trainer->accumulate(batch, CancelFlag());
  expect_close(gradients_of(*model), expected, 1e-6);
  EXPECT_EQ(refusal(), none);
  for (const auto& [name, tensor] : model->weights()) EXPECT_FALSE(tensor.grad().defined()) << name;  // a failed step

  trainer->forward(batch, CancelFlag());
  EXPECT_EQ(trainer->apply(0.5), 0);  // nothing was accumulated
  EXPECT_EQ(refusal(), none);
  trainer->forward(batch, CancelFlag());
  trainer->zero_grad();
  EXPECT_EQ(refusal(), none);
  SftBatch sft;
  sft.forest = {{1, 2, 3, 4, 5}, {0, 2, 5}, {-1, 0}};
  sft.segment_weight = {0, 1};
  sft.token_norm = 3;
  trainer->forward(batch, CancelFlag());
  trainer->accumulate(sft, CancelFlag());
  EXPECT_EQ(refusal(), none);
  trainer->forward(batch, CancelFlag());
  trainer->backward(ones, CancelFlag());
  EXPECT_EQ(refusal(), none);  // one backward a forward

  // Disposal with a forward under way leaves a model that another trainer trains the same.
  trainer->forward(batch, CancelFlag());
  trainer.reset();
  for (const auto& [name, tensor] : model->weights()) EXPECT_FALSE(tensor.requires_grad()) << name;
  trainer = std::make_unique<Trainer>(*model, TrainerOptions{});
  trainer->accumulate(batch, CancelFlag());
  expect_close(gradients_of(*model), expected, 1e-6);
}

TEST(Trainer, BackwardRefusesGradientsThatAreNoneAndDropsTheStep) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  const PreferenceBatch batch = step_tree();
  const auto refusal = [&](const std::vector<double>& grad, const CancelFlag& cancel) -> std::string {
    trainer.accumulate(batch, CancelFlag());
    trainer.forward(batch, CancelFlag());
    try {
      trainer.backward(grad, cancel);
    } catch (const Error& error) {
      EXPECT_EQ(trainer.apply(0), 0);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal({1, 2}, CancelFlag()), "grad: expected one number per completion of the forward (5), got 2");
  EXPECT_EQ(refusal({1, 2, NAN, 4, 5}, CancelFlag()), "grad[2]: expected a finite number, got nan");
  CancelFlag cancelled;
  cancelled.cancel();
  EXPECT_NE(refusal({1, 2, 3, 4, 5}, cancelled), "");
}

TEST(Trainer, ForwardTrainsAdaptersAlone) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.lora = {4, 8, {"q_proj", "down_proj"}, 3};
  Trainer trainer(*model, options);
  const PreferenceBatch batch = step_tree();
  trainer.forward(batch, CancelFlag());
  trainer.backward({1, 1, 1, 1, 1}, CancelFlag());
  for (const auto& [name, tensor] : model->weights()) EXPECT_FALSE(tensor.grad().defined()) << name;
  EXPECT_GT(trainer.apply(0.1), 0);
  trainer.forward(batch, CancelFlag());
  trainer.merge_adapter();
  EXPECT_THROW(trainer.backward({1, 1, 1, 1, 1}, CancelFlag()), Error);
}

TEST(Trainer, StatisticsAreThoseOfTheWholeLogSoftmax) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  const PreferenceBatch batch = step_tree();
  const PreferenceStatistics got = trainer.accumulate(batch, CancelFlag()).statistics;
  at::NoGradGuard no_grad;
  double correct = 0, entropy = 0, logits[2] = {0, 0};
  for (size_t p = 0; p < batch.chosen.size(); ++p) {
    for (const bool chosen : {true, false}) {
      const int32_t segment = batch.completion_segments[chosen ? batch.chosen[p] : batch.rejected[p]];
      const std::vector<int32_t> tokens = path_tokens(batch.forest, segment);
      const Forest alone = testing::chain(tokens);
      const at::Tensor z = at::linear(model->forward(alone, pack_forest(alone)), model->head()).to(at::kDouble);
      const at::Tensor logprobs = at::log_softmax(z, 1);
      const size_t own = batch.forest.offsets[segment + 1] - batch.forest.offsets[segment];
      for (size_t i = tokens.size() - own; i < tokens.size(); ++i) {
        const int64_t row = static_cast<int64_t>(i) - 1;
        entropy -= (logprobs[row] * logprobs[row].exp()).sum().item<double>();
        logits[chosen ? 0 : 1] += z[row].mean().item<double>();
        if (chosen) correct += z[row].argmax().item<int64_t>() == tokens[i];
      }
    }
  }
  EXPECT_EQ(got.correct, correct);
  EXPECT_NEAR(got.entropy, entropy, 1e-4);
  EXPECT_NEAR(got.logits_chosen, logits[0], 1e-5);
  EXPECT_NEAR(got.logits_rejected, logits[1], 1e-5);
  EXPECT_EQ(got.chosen_tokens, 3 + 3 + 2);
  EXPECT_EQ(got.rejected_tokens, 2 + 2 + 2);
}

TEST(Trainer, MemoryFollowsTheShapeOfTheMicroBatch) {
  const auto model = tiny_model();
  const Trainer trainer(*model, {});
  const auto memory = [&](int64_t tokens, int64_t step_tokens, bool checkpoint_layers) {
    return trainer.memory({.tokens = tokens,
                           .scored_tokens = tokens / 2,
                           .path_tokens = 3 * tokens,
                           .paths = 5,
                           .step_tokens = step_tokens,
                           .checkpoint_layers = checkpoint_layers});
  };
  const TrainingMemory small = memory(1000, 4000, false), large = memory(2000, 4000, false),
                       checkpointed = memory(2000, 4000, true);
  EXPECT_GT(small.base, 0);
  EXPECT_EQ(small.gradients, model->num_parameters() * 4);
  EXPECT_EQ(small.optimizer, model->num_parameters() * 8);
  // Of 61 rows of the embedding's gradient those of ten tokens, twice.
  EXPECT_EQ(memory(10, 10, false).gradients, (model->num_parameters() - (61 - 20) * 32) * 4);
  EXPECT_EQ(large.activations, 2 * small.activations);
  EXPECT_LT(checkpointed.activations, large.activations);
  EXPECT_EQ(large.total(), large.base + large.gradients + large.optimizer + large.activations + large.workspace);
}

TEST(Trainer, AccumulatingPartsEqualsTheWhole) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  const double whole = trainer.accumulate(batch, CancelFlag()).loss;
  const auto expected = gradients_of(*model);
  trainer.zero_grad();
  double parts = 0;
  for (size_t i = 0; i < 3; ++i) {
    PreferenceBatch part = batch;
    part.chosen = {batch.chosen[i]};
    part.rejected = {batch.rejected[i]};
    part.weight = {batch.weight[i]};
    parts += trainer.accumulate(part, CancelFlag()).loss;
  }
  EXPECT_NEAR(parts, whole, 1e-6);
  expect_close(gradients_of(*model), expected, 1e-6);
}

TEST(Trainer, SgdStepIsWeightsMinusRateTimesGradient) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.optimizer = "sgd";
  Trainer trainer(*model, options);
  std::map<std::string, at::Tensor> expected;
  trainer.accumulate(step_tree(), CancelFlag());
  for (const auto& [name, gradient] : gradients_of(*model))
    expected[name] = model->weights().at(name).detach() - gradient * 0.5;
  trainer.apply(0.5);
  for (const auto& [name, tensor] : model->weights()) EXPECT_TRUE(tensor.detach().equal(expected.at(name))) << name;
}

TEST(Trainer, AdamWFollowsItsDefinitionOverSeveralSteps) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.beta1 = 0.8;
  options.beta2 = 0.95;
  options.weight_decay = 0.1;
  Trainer trainer(*model, options);
  std::map<std::string, at::Tensor> weight, first, second;
  for (const auto& [name, tensor] : model->weights()) {
    weight[name] = tensor.detach().to(at::kDouble);
    first[name] = at::zeros_like(weight[name]);
    second[name] = at::zeros_like(weight[name]);
  }
  for (int step = 1; step <= 3; ++step) {
    trainer.accumulate(step_tree(), CancelFlag());
    // arXiv 1711.05101, algorithm 2.
    for (const auto& [name, gradient] : gradients_of(*model)) {
      const at::Tensor g = gradient.to(at::kDouble);
      first[name] = first[name] * 0.8 + g * 0.2;
      second[name] = second[name] * 0.95 + g * g * 0.05;
      const double decay = g.dim() > 1 ? 0.1 : 0;
      weight[name] =
          weight[name] * (1 - 0.01 * decay) -
          first[name] / (1 - std::pow(0.8, step)) / ((second[name] / (1 - std::pow(0.95, step))).sqrt() + 1e-8) * 0.01;
    }
    trainer.apply(0.01);
  }
  for (const auto& [name, tensor] : model->weights()) {
    EXPECT_LT((tensor.detach().to(at::kDouble) - weight.at(name)).abs().max().item<double>(), 1e-6) << name;
  }
}

TEST(Trainer, ClippingBoundsTheNormAndReportsItUnclipped) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.optimizer = "sgd";
  options.max_grad_norm = 0.01;
  Trainer trainer(*model, options);
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, tensor] : model->weights()) before[name] = tensor.detach().clone();
  trainer.accumulate(step_tree(), CancelFlag());
  double square = 0;
  for (const auto& [name, gradient] : gradients_of(*model)) square += gradient.square().sum().item<double>();
  EXPECT_NEAR(trainer.apply(1.0), std::sqrt(square), 1e-5 * std::sqrt(square));
  double moved = 0;
  for (const auto& [name, tensor] : model->weights())
    moved += (tensor.detach() - before.at(name)).square().sum().item<double>();
  EXPECT_NEAR(std::sqrt(moved), 0.01, 1e-5);
}

TEST(Trainer, SftLossIsTheMeanOfWeightedTokens) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  SftBatch batch;
  batch.forest = {{1, 2, 3, 4, 5, 6, 7}, {0, 2, 5, 7}, {-1, 0, 1}};
  batch.segment_weight = {0, 1, 0};
  batch.token_norm = 3;
  const SftResult result = trainer.accumulate(batch, CancelFlag());
  const auto packed = gradients_of(*model);
  trainer.zero_grad();
  at::AutoGradMode with_grad(true);
  const at::Tensor loss = -plain_logprob(*model, batch.forest, 1) / 3.0;
  loss.backward();
  EXPECT_NEAR(result.loss, loss.item<double>(), 1e-5);
  EXPECT_EQ(result.scored_tokens, 3);
  expect_close(packed, gradients_of(*model), 1e-5);
}

TEST(Trainer, LoraStartsAtTheModelTrainsOnlyAdaptersAndMerges) {
  const auto model = tiny_model();
  const PreferenceBatch batch = step_tree();
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, tensor] : model->weights()) before[name] = tensor.clone();
  TrainerOptions options;
  options.optimizer = "sgd";
  options.lora = {4, 8, {"q_proj", "down_proj"}, 3};
  Trainer trainer(*model, options);
  const std::vector<double> reference = trainer.reference_logprobs(batch, CancelFlag());
  for (int step = 0; step < 3; ++step) {
    trainer.accumulate(batch, CancelFlag());
    EXPECT_GT(trainer.apply(0.5), 0);
  }
  for (const auto& [name, tensor] : model->weights()) EXPECT_TRUE(tensor.equal(before.at(name))) << name;
  EXPECT_EQ(trainer.reference_logprobs(batch, CancelFlag()), reference);  // adapters off
  at::NoGradGuard no_grad;
  const float adapted = plain_logprob(*model, batch.forest, 2).item<float>();
  trainer.merge_adapter();
  EXPECT_NEAR(plain_logprob(*model, batch.forest, 2).item<float>(), adapted, 1e-4);
  EXPECT_GT(std::abs(adapted - reference[1]), 1e-3);
  EXPECT_THROW(trainer.accumulate(batch, CancelFlag()), Error);  // nothing left to train
  EXPECT_THROW(trainer.save_adapter("/tmp", "base"), Error);
}

TEST(Trainer, AFailedSetUpLeavesNoAdapterBehind) {
  const auto model = tiny_model();
  TrainerOptions options;
  options.lora = {4, 8, {"gate_proj", "no_such_layer"}, 3};
  EXPECT_THROW(Trainer(*model, options), Error);
  for (const LayerWeights& layer : model->layers()) EXPECT_FALSE(layer.gate.lora.has_value());
}

TEST(Trainer, AnythingThatFailsDropsTheGradientsOfTheStep) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  CancelFlag cancelled;
  cancelled.cancel();
  trainer.accumulate(batch, CancelFlag());
  EXPECT_THROW(trainer.accumulate(batch, cancelled), Error);
  EXPECT_EQ(trainer.apply(0), 0);
  trainer.accumulate(batch, CancelFlag());
  batch.beta = -1;
  EXPECT_THROW(trainer.accumulate(batch, CancelFlag()), Error);
  EXPECT_EQ(trainer.apply(0), 0);
  batch.beta = 1;
  batch.completion_offsets[1] = 5;  // out of order
  EXPECT_THROW(trainer.accumulate(batch, CancelFlag()), Error);
}

TEST(Trainer, InfiniteLossLeavesWeightsAndNoGradients) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  PreferenceBatch batch = step_tree();
  batch.reference[0] = INFINITY;
  EXPECT_THROW(trainer.accumulate(batch, CancelFlag()), Error);
  for (const auto& [name, tensor] : model->weights()) EXPECT_FALSE(tensor.grad().defined());
}

}  // namespace
}  // namespace stepward
