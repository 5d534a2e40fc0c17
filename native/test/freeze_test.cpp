// Freeze lists: which weights patterns leave to train, and that the others get no gradient and keep their values while
// those that are trained get the gradients that they have without a list.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include <ATen/TensorOperators.h>

#include "core/freeze.h"
#include "helpers/temp_dir.h"
#include "helpers/tiny_model.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::expect_error;
using testing::tiny_model;

std::vector<std::string> names_left(const Model& model, const std::vector<std::string>& freeze) {
  std::vector<std::string> names;
  for (const Parameter& parameter : trainable_weights(model, freeze)) names.push_back(parameter.name);
  return names;
}

SftBatch some_batch() {
  SftBatch batch;
  batch.forest = {{1, 2, 3, 4, 5, 6, 7}, {0, 2, 5, 7}, {-1, 0, 1}};
  batch.segment_weight = {0, 1, 1};
  batch.token_norm = 5;
  return batch;
}

TEST(Freeze, PatternsAreNamesWithStarsAndQuestionMarks) {
  const auto model = tiny_model();
  EXPECT_EQ(names_left(*model, {}).size(), model->weights().size());
  EXPECT_EQ(names_left(*model, {"model.*"}), std::vector<std::string>{"lm_head.weight"});
  const std::vector<std::string> left =
      names_left(*model, {"*embed*", "lm_head.weight", "*.layers.?.mlp.*", "*norm.weight"});
  ASSERT_EQ(left.size(), 2u * 4);
  for (const std::string& name : left) EXPECT_NE(name.find(".self_attn."), std::string::npos) << name;
}

TEST(Freeze, PatternsThatFreezeNothingOrEverythingAreRefused) {
  const auto model = tiny_model(), tied = tiny_model("llama", "\"tie_word_embeddings\": true");
  expect_error(ErrorCode::INVALID_ARGUMENT, {"'model.layers.2.*'", "matches none"},
               [&] { trainable_weights(*model, {"model.*", "model.layers.2.*"}); });
  expect_error(ErrorCode::INVALID_ARGUMENT, {"'lm_head.*'", "model.embed_tokens.weight"},
               [&] { trainable_weights(*tied, {"lm_head.*"}); });
  expect_error(ErrorCode::INVALID_ARGUMENT, {"all are frozen"}, [&] { trainable_weights(*model, {"*"}); });
  TrainerOptions options;
  options.freeze = {"lm_head.weight"};
  options.lora = {2, 4, {"q_proj"}, 1};
  expect_error(ErrorCode::INVALID_ARGUMENT, {"freeze", "LoRA"}, [&] { Trainer(*model, options); });
}

class FreezeTest : public ::testing::TestWithParam<std::tuple<std::vector<std::string>, bool>> {};

TEST_P(FreezeTest, FrozenWeightsGetNoGradientAndTheOthersTheirs) {
  const auto whole = tiny_model("qwen3"), part = tiny_model("qwen3");
  Trainer everything(*whole, {});
  TrainerOptions options;
  options.optimizer = "sgd";
  options.freeze = std::get<0>(GetParam());
  options.checkpoint_layers = std::get<1>(GetParam());
  Trainer trainer(*part, options);
  everything.accumulate(some_batch(), CancelFlag());
  trainer.accumulate(some_batch(), CancelFlag());
  const std::vector<std::string> trained = names_left(*part, options.freeze);
  const TensorMap expected = whole->weights(), got = part->weights();
  for (const auto& [name, tensor] : got) {
    const bool frozen = std::find(trained.begin(), trained.end(), name) == trained.end();
    EXPECT_EQ(tensor.requires_grad(), !frozen) << name;
    ASSERT_EQ(tensor.grad().defined(), !frozen) << name;
    if (frozen) continue;
    // A frozen head makes the gradient of its input another way, which differs in the last bits.
    const at::Tensor want = testing::gradient_of(expected.at(name));
    EXPECT_LE((testing::gradient_of(tensor) - want).norm().item<double>(), 1e-6 * want.norm().item<double>()) << name;
  }
  trainer.apply(0.1);
  for (const auto& [name, tensor] : got) {
    const bool frozen = std::find(trained.begin(), trained.end(), name) == trained.end();
    EXPECT_EQ(tensor.equal(expected.at(name)), frozen) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Lists, FreezeTest,
                         ::testing::Combine(::testing::Values(std::vector<std::string>{"model.embed_tokens.*",
                                                                                       "model.layers.0.*"},
                                                              std::vector<std::string>{"lm_head.weight"},
                                                              std::vector<std::string>{"model.*"},
                                                              std::vector<std::string>{"*proj.weight", "lm_head.*"}),
                                            ::testing::Bool()));

}  // namespace
}  // namespace stepward
