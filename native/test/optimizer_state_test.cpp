// The optimiser's state as a file: training that was cut and taken up again takes the same steps to the last bit, and a
// state that is not this trainer's is refused and changes nothing.
#include <gtest/gtest.h>

#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include "core/lora.h"
#include "core/optimizer_state.h"
#include "helpers/temp_dir.h"
#include "helpers/tiny_model.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::tiny_model;

SftBatch batch_of(int step) {
  SftBatch batch;
  batch.forest = {{1, 2, 3, 4, 5, 6, 7}, {0, 2, 5, 7}, {-1, 0, 1}};
  for (int32_t& token : batch.forest.tokens) token += step;
  batch.segment_weight = {0, 1, 1};
  batch.token_norm = 5;
  return batch;
}

double train(Trainer& trainer, int first, int last) {
  double loss = 0;
  for (int step = first; step < last; ++step) {
    loss = trainer.accumulate(batch_of(step), CancelFlag()).loss;
    trainer.apply(0.01);
  }
  return loss;
}

void expect_same_weights(const Model& got, const Model& expected) {
  for (const auto& [name, tensor] : expected.weights()) EXPECT_TRUE(got.weights().at(name).equal(tensor)) << name;
}

// Model::save without the files of a source folder, which a tiny model does not have any more.
void save_model(const Model& model, const std::filesystem::path& folder) {
  TensorMap weights;
  for (const auto& [name, tensor] : model.weights()) weights.emplace(name, tensor.detach());
  save_checkpoint(folder, {}, model.config(), weights);
}

TrainerOptions adamw() {
  TrainerOptions options;
  options.beta2 = 0.95;
  options.weight_decay = 0.1;
  options.max_grad_norm = 0.5;
  return options;
}

class Resume : public ::testing::TestWithParam<const char*> {};

TEST_P(Resume, GoesOnToTheLastBit) {
  const std::string kind = GetParam();
  TrainerOptions options = adamw();
  if (kind == "sgd") options.optimizer = "sgd";
  if (kind == "freeze") options.freeze = {"model.embed_tokens.*", "*.mlp.*"};
  if (kind == "lora") options.lora = {4, 8, {"q_proj", "down_proj", "lm_head"}, 3};
  const TempDir folder;
  const std::filesystem::path state = folder / "optimizer.safetensors", parameters = folder / "parameters";
  const auto whole = tiny_model();
  {
    Trainer trainer(*whole, options);
    train(trainer, 0, 3);
    trainer.save_state(state);
    if (kind == "lora") {
      trainer.save_adapter(parameters, "base");
    } else {
      save_model(*whole, parameters);
    }
    train(trainer, 3, 6);
    if (kind == "lora") trainer.merge_adapter();
  }
  const auto resumed = tiny_model();
  {
    Trainer trainer(*resumed, options);
    train(trainer, 4, 5);  // what was trained before goes
    trainer.accumulate(batch_of(1), CancelFlag());
    trainer.load_state(state, parameters);
    train(trainer, 3, 6);
    if (kind == "lora") trainer.merge_adapter();
  }
  expect_same_weights(*resumed, *whole);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Resume, ::testing::Values("adamw", "sgd", "freeze", "lora"));

TEST(OptimizerState, WithoutItAdamsStepsAreOthers) {
  const auto whole = tiny_model(), cut = tiny_model();
  {
    Trainer trainer(*whole, adamw());
    train(trainer, 0, 4);
  }
  for (const int first : {0, 2}) {
    Trainer trainer(*cut, adamw());
    train(trainer, first, first + 2);
  }
  EXPECT_GT((cut->head() - whole->head()).abs().max().item<double>(), 1e-4);
}

TEST(OptimizerState, MastersOfRoundedWeightsAreKept) {
  at::NoGradGuard no_grad;
  const auto make = [] {
    return std::vector<Parameter>{{"w", (at::arange(12, at::kFloat).view({3, 4}) / 7).to(at::kBFloat16)}};
  };
  const auto step = [](Optimizer& optimizer, const Parameter& parameter, double slope) {
    at::Tensor weight = parameter.tensor;
    weight.mutable_grad() = at::full({3, 4}, slope, at::kFloat).to(at::kBFloat16);
    optimizer.step(1e-4);  // less than bfloat16 can show: only masters remember
  };
  const TempDir folder;
  const auto whole = make();
  Optimizer first(whole, adamw());
  for (int i = 0; i < 4; ++i) step(first, whole[0], 1 + i);
  write_optimizer_state(first, folder / "state");
  const TensorMap tensors = read_safetensors(folder / "state");
  EXPECT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors.at("step.w").item<float>(), 4);
  EXPECT_FALSE(tensors.at("master.w").equal(whole[0].tensor.to(at::kFloat)));
  EXPECT_EQ(read_safetensors_metadata(folder / "state").at("format"), "stepward-optimizer-1");

  const auto resumed = make();
  Optimizer second(resumed, adamw());
  set_optimizer_state(second, read_optimizer_state(second, folder / "state"));
  for (int i = 4; i < 40; ++i) {
    step(first, whole[0], 1 + i);
    step(second, resumed[0], 1 + i);
  }
  EXPECT_TRUE(second.entries()[0].master.equal(first.entries()[0].master));
  EXPECT_TRUE(resumed[0].tensor.equal(whole[0].tensor));
  EXPECT_FALSE(whole[0].tensor.equal(make()[0].tensor));
}

TEST(OptimizerState, NarrowGradientsOfAStepAreSummedUpInFloat32) {
  at::NoGradGuard no_grad;
  // A large gradient and many small ones, each less than half of what bfloat16 can tell the large one from.
  for (const bool rows_alone : {false, true}) {
    std::vector<Parameter> narrow{{"w", at::zeros({3, 4}, at::kBFloat16)}}, wide{{"w", at::zeros({3, 4})}};
    TrainerOptions options = adamw();
    options.optimizer = "sgd";
    options.max_grad_norm = 0;
    Optimizer rounded(narrow, options), exact(wide, options);
    for (int i = 0; i < 65; ++i) {
      const at::Tensor gradient = at::full({3, 4}, i == 0 ? 1.0f : 1.0f / 512);
      narrow[0].tensor.mutable_grad() = gradient.to(at::kBFloat16);
      if (rows_alone) narrow[0].tensor.mutable_grad() = narrow[0].tensor.grad().to_sparse(1);
      rounded.take_gradients();
      at::Tensor& sum = wide[0].tensor.mutable_grad();
      sum = sum.defined() ? sum + gradient : gradient;
      exact.take_gradients();
    }
    const double norm = rounded.step(1);
    EXPECT_NEAR(norm, exact.step(1), 1e-6);
    EXPECT_NEAR(rounded.entries()[0].master.select(0, 1)[2].item<float>(), -1.125f, 1e-6) << rows_alone;
    EXPECT_FALSE(rounded.entries()[0].taken.defined());
  }
}

TEST(OptimizerState, AStateOfAnotherTrainingIsRefusedAndChangesNothing) {
  const TempDir folder;
  const auto model = tiny_model();
  save_model(*model, folder / "model");
  {
    Trainer trainer(*model, adamw());
    train(trainer, 0, 1);
    trainer.save_state(folder / "state");
  }
  save_model(*model, folder / "trained");
  const auto refuses = [&](const TrainerOptions& options, const std::string& parameters,
                           const std::vector<std::string>& parts, Model& into) {
    std::map<std::string, at::Tensor> before;
    for (const auto& [name, tensor] : into.weights()) before[name] = tensor.detach().clone();
    Trainer trainer(into, options);
    expect_error(ErrorCode::CHECKPOINT_INVALID, parts,
                 [&] { trainer.load_state(folder / "state", folder / parameters); });
    for (const auto& [name, tensor] : into.weights()) EXPECT_TRUE(tensor.detach().equal(before.at(name))) << name;
  };
  TrainerOptions options = adamw();
  options.optimizer = "sgd";
  refuses(options, "trained", {"optimizer sgd", "got adamw"}, *tiny_model());
  options = adamw();
  options.beta2 = 0.9;
  refuses(options, "trained", {"beta2 0.9", "got 0.95"}, *tiny_model());
  options = adamw();
  options.freeze = {"lm_head.weight"};
  refuses(options, "trained", {"lm_head.weight", "none of them"}, *tiny_model());
  options = adamw();
  options.lora = {4, 8, {"q_proj"}, 3};
  refuses(options, "trained", {"lora_A.weight", "missing"}, *tiny_model());
  refuses(adamw(), "trained", {"shape [61, 64]", "[61, 32]"}, *tiny_model("llama", "\"hidden_size\": 64"));

  // Weights of another shape beside a fitting state.
  save_model(*tiny_model("llama", "\"intermediate_size\": 64"), folder / "wide");
  refuses(adamw(), "wide", {"mlp.gate_proj.weight", "[64, 32]"}, *tiny_model());
  Trainer trainer(*model, adamw());
  expect_error(ErrorCode::FILE_NOT_FOUND, {"nowhere"},
               [&] { trainer.load_state(folder / "nowhere", folder / "model"); });
}

TEST(OptimizerState, AParameterWithoutAGradientIsLeftAlone) {
  at::NoGradGuard no_grad;
  std::vector<Parameter> parameters{{"used", at::full({2, 2}, 1.0, at::kFloat)},
                                    {"unused", at::full({2}, 3.0, at::kFloat)}};
  Optimizer optimizer(parameters, adamw());
  for (int i = 0; i < 2; ++i) {
    parameters[0].tensor.mutable_grad() = at::full({2, 2}, 0.25, at::kFloat);
    EXPECT_NEAR(optimizer.step(0.1), 0.5, 1e-6);
  }
  EXPECT_TRUE(parameters[1].tensor.equal(at::full({2}, 3.0, at::kFloat)));
  for (const Optimizer::Entry& entry : optimizer.entries())
    EXPECT_EQ(entry.steps.item<float>(), entry.name == "used" ? 2 : 0);
  EXPECT_EQ(optimizer.step(0.1), 0);  // nothing accumulated: nothing changes
}

}  // namespace
}  // namespace stepward
