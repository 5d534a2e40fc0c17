// LoRA adapters as files and as arithmetic: what is written is read, what cannot be used is refused by name, the head's
// adapter has the gradients of autograd, and merging rounds once.
#include <gtest/gtest.h>

#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include "core/lora.h"
#include "core/peft.h"
#include "helpers/temp_dir.h"
#include "helpers/tiny_model.h"
#include "stepward/rollout.h"

namespace stepward {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TempDir;
using testing::tiny_model;

// Ranks 4, 2 and 3, alphas 8 and 5, on the head too.
LoraOptions mixed_options() {
  LoraOptions options;
  options.rank = 4;
  options.alpha = 8;
  options.targets = {"q_proj", "down_proj", "layers.1.self_attn.v_proj", "lm_head"};
  options.seed = 7;
  options.rank_pattern = {{"layers.0.self_attn.q_proj", 2}, {"lm_head", 3}};
  options.alpha_pattern = {{"down_proj", 5}};
  return options;
}

// Adapters with both halves away from zero.
void add_trained(Model& model, const LoraOptions& options) {
  add_lora(model, options);
  at::NoGradGuard no_grad;
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0, 0.3f);
  for (const Parameter& parameter : lora_parameters(model)) {
    float* data = parameter.tensor.data_ptr<float>();
    for (int64_t i = 0; i < parameter.tensor.numel(); ++i) data[i] = normal(random);
  }
}

std::map<std::string, at::Tensor> values_of(Model& model) {
  std::map<std::string, at::Tensor> values;
  for (const Parameter& parameter : lora_parameters(model)) values[parameter.name] = parameter.tensor.detach().clone();
  return values;
}

Forest some_forest() {
  std::mt19937 random(5);
  return testing::random_forest(random, 2, 5);
}

// A saved adapter whose configuration is changed before it is read again.
class Files {
 public:
  explicit Files(Model& model, const LoraOptions& options = mixed_options()) {
    add_trained(model, options);
    save_lora(model, options, folder.path(), "base", base_fingerprint(model));
    remove_lora(model);
  }
  json config() const { return json::parse(folder.read("adapter_config.json")); }
  void set(const std::string& key, const json& value) const {
    json changed = config();
    changed[key] = value;
    folder.write("adapter_config.json", changed.dump());
  }
  TensorMap tensors() const {
    TensorMap copies;
    for (const auto& [name, tensor] : read_safetensors(folder / "adapter_model.safetensors"))
      copies.emplace(name, tensor.clone());
    return copies;
  }
  void write(const TensorMap& tensors) const { write_safetensors(folder / "adapter_model.safetensors", tensors); }

  TempDir folder;
};

TEST(Peft, WhatIsWrittenIsReadAgain) {
  const auto model = tiny_model();
  Files files(*model);
  add_trained(*model, mixed_options());
  const auto expected = values_of(*model);
  const std::vector<uint8_t> all(some_forest().num_segments(), 1);
  const std::vector<float> logprobs = testing::forward_logprobs(*model, some_forest(), all);

  const auto fresh = tiny_model();
  const LoraOptions read = load_lora(*fresh, files.folder.path(), false);
  const auto got = values_of(*fresh);
  ASSERT_EQ(got.size(), expected.size());
  EXPECT_EQ(got.size(), 2u * (2 + 2 + 1 + 1));
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(got.at(name).equal(tensor)) << name;
  EXPECT_EQ(got.at("model.layers.0.self_attn.q_proj.lora_A.weight").size(0), 2);
  EXPECT_EQ(got.at("model.layers.1.self_attn.q_proj.lora_A.weight").size(0), 4);
  EXPECT_EQ(got.at("lm_head.lora_B.weight").size(1), 3);
  EXPECT_DOUBLE_EQ(fresh->layers()[0].q.lora->scale, 8.0 / 2);
  EXPECT_DOUBLE_EQ(fresh->layers()[1].down.lora->scale, 5.0 / 4);
  EXPECT_FALSE(fresh->layers()[0].v.lora.has_value());
  const std::vector<float> again = testing::forward_logprobs(*fresh, some_forest(), all);
  for (size_t i = 0; i < again.size(); ++i) {
    EXPECT_TRUE(again[i] == logprobs[i] || std::isnan(logprobs[i])) << i;
  }
  EXPECT_EQ(read.targets, mixed_options().targets);
  EXPECT_EQ(read.rank_pattern, mixed_options().rank_pattern);
  EXPECT_EQ(files.config()["base_model_name_or_path"], "base");
}

TEST(Peft, RslorasScaleIsAlphaOverTheRootOfTheRank) {
  const auto model = tiny_model();
  LoraOptions options = mixed_options();
  options.rslora = true;
  Files files(*model, options);
  EXPECT_TRUE(load_lora(*model, files.folder.path(), false).rslora);
  EXPECT_DOUBLE_EQ(model->layers()[0].q.lora->scale, 8.0 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(model->layers()[0].down.lora->scale, 5.0 / 2);
}

TEST(Peft, AllLinearIsEveryLayerButTheHead) {
  const auto model = tiny_model();
  LoraOptions options;
  options.rank = 2;
  options.targets = {"all-linear"};
  Files files(*model, options);
  EXPECT_EQ(files.config()["target_modules"].size(), 7u);
  files.set("target_modules", "all-linear");
  load_lora(*model, files.folder.path(), false);
  EXPECT_EQ(lora_parameters(*model).size(), 2u * 7 * 2);
  EXPECT_FALSE(model->head_linear().lora.has_value());
}

TEST(Peft, ARegularExpressionTakesTheModulesThatTheTensorsName) {
  const auto model = tiny_model();
  Files files(*model);
  files.set("target_modules", ".*(q_proj|down_proj|1.self_attn.v_proj|lm_head)");
  const LoraOptions read = load_lora(*model, files.folder.path(), false);
  EXPECT_EQ(read.targets.size(), 6u);
  EXPECT_EQ(read.targets.back(), "lm_head");
  EXPECT_EQ(lora_parameters(*model).size(), 12u);
}

TEST(Peft, WhatItDoesNotComputeIsRefusedByName) {
  const auto model = tiny_model();
  const std::vector<std::pair<const char*, json>> cases{{"use_dora", true},
                                                        {"bias", "lora_only"},
                                                        {"modules_to_save", json::array({"lm_head"})},
                                                        {"peft_type", "LOHA"},
                                                        {"fan_in_fan_out", true},
                                                        {"layer_replication", json::array({{0, 1}})},
                                                        {"init_lora_weights", "pissa"}};
  for (const auto& [key, value] : cases) {
    Files files(*model);
    files.set(key, value);
    expect_error(ErrorCode::UNSUPPORTED_MODEL, {"adapter_config.json", key},
                 [&] { load_lora(*model, files.folder.path(), false); });
    EXPECT_TRUE(lora_parameters(*model).empty()) << key;
  }
  Files files(*model);
  TensorMap tensors = files.tensors();
  tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = at::zeros({4, 61});
  files.write(tensors);
  expect_error(ErrorCode::UNSUPPORTED_MODEL, {"embed_tokens"}, [&] { load_lora(*model, files.folder.path(), false); });
}

TEST(Peft, AnAdapterOfAnotherBaseIsToldApart) {
  const auto model = tiny_model();
  Files files(*model);
  const auto load = [&](Model& into, bool allow = false) { load_lora(into, files.folder.path(), allow); };

  const auto other = tiny_model("llama", "", 2);
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"another base", base_fingerprint(*model), base_fingerprint(*other)},
               [&] { load(*other); });
  EXPECT_TRUE(lora_parameters(*other).empty());
  load(*other, true);
  EXPECT_EQ(lora_parameters(*other).size(), 12u);

  const auto wide = tiny_model("llama", "\"hidden_size\": 64, \"head_dim\": 16");
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"another base", "q_proj [64, 64]", "lora_A [2, 64]", "[2, 32]"},
               [&] { load(*wide, true); });
  const auto shallow = tiny_model("llama", "\"num_hidden_layers\": 1");
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"another base", "model.layers.1.", "1 layers"},
               [&] { load(*shallow, true); });
  const auto tied = tiny_model("llama", "\"tie_word_embeddings\": true");
  expect_error(ErrorCode::UNSUPPORTED_MODEL, {"lm_head"}, [&] { load(*tied, true); });

  // PEFT keeps a copy of the head beside an adapter on it.
  TensorMap tensors = files.tensors();
  const at::Tensor head = model->head().detach().clone();
  tensors["base_model.model.lm_head.base_layer.weight"] = head;
  files.write(tensors);
  load(*model);
  remove_lora(*model);
  head[3][4] += 1;
  files.write(tensors);
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"another base", "lm_head.weight"}, [&] { load(*model); });
}

TEST(Peft, DamagedFilesAreToldApart) {
  const auto model = tiny_model();
  const auto refuses = [&](const Files& files, const std::vector<std::string>& parts) {
    expect_error(ErrorCode::CHECKPOINT_INVALID, parts, [&] { load_lora(*model, files.folder.path(), true); });
    EXPECT_TRUE(lora_parameters(*model).empty());
  };
  {
    Files files(*model);
    TensorMap tensors = files.tensors();
    tensors.erase("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
    files.write(tensors);
    refuses(files, {"model.layers.1.mlp.down_proj.lora_B.weight", "missing"});
  }
  {
    Files files(*model);
    files.set("r", 5);
    refuses(files, {"rank 5", "down_proj"});
  }
  {
    Files files(*model);
    files.set("target_modules", 3);
    refuses(files, {"target_modules"});
  }
  {
    Files files(*model);
    std::filesystem::rename(files.folder / "adapter_model.safetensors", files.folder / "adapter_model.bin");
    refuses(files, {"pickle"});
  }
}

TEST(Lora, TargetsThatAreNoLayerAreRefused) {
  const auto model = tiny_model();
  const auto tied = tiny_model("llama", "\"tie_word_embeddings\": true");
  LoraOptions options = mixed_options();
  expect_error(ErrorCode::INVALID_ARGUMENT, {"lm_head", "embedding"}, [&] { add_lora(*tied, options); });
  options.targets = {"embed_tokens"};
  expect_error(ErrorCode::INVALID_ARGUMENT, {"'embed_tokens'", "all-linear"}, [&] { add_lora(*model, options); });
  options.targets = {"q_proj"};
  options.rank_pattern = {{"q_proj(", 2}};
  expect_error(ErrorCode::INVALID_ARGUMENT, {"'q_proj('", "regular expression"}, [&] { add_lora(*model, options); });
}

TEST(Lora, TheHeadsAdapterHasAutogradsGradients) {
  const auto model = tiny_model();
  add_trained(*model, mixed_options());
  std::vector<Parameter> parameters = lora_parameters(*model);
  for (const Parameter& parameter : parameters) parameter.tensor.set_requires_grad(true);
  const Forest forest = testing::chain({3, 9, 27, 20, 60, 58, 52, 34, 41});
  const std::vector<float> weights{0.5f, -1.0f, 2.0f, 0.25f, 1.0f, -0.5f, 0.75f, 1.5f};
  const at::Tensor weight = float_tensor(weights, at::kCPU);

  at::AutoGradMode with_grad(true);
  const ForestLogprobs result = forest_logprobs(*model, forest, {1});
  (result.values * weight).sum().backward();
  std::map<std::string, at::Tensor> got;
  for (const Parameter& parameter : parameters) {
    got[parameter.name] = parameter.tensor.grad().clone();
    parameter.tensor.mutable_grad() = at::Tensor();
  }

  const at::Tensor hidden = model->forward(forest, pack_forest(forest));
  const LoraPair& head = *model->head_linear().lora;
  const at::Tensor logits =
      at::linear(hidden, model->head()) + at::linear(at::linear(hidden, head.a), head.b) * head.scale;
  const at::Tensor all = at::log_softmax(logits, 1);
  at::Tensor loss = at::zeros({});
  for (int64_t i = 0; i + 1 < forest.num_tokens(); ++i) {
    EXPECT_NEAR(result.values[i].item<float>(), all[i][forest.tokens[i + 1]].item<float>(), 1e-5);
    loss = loss + all[i][forest.tokens[i + 1]] * weights[i];
  }
  loss.backward();
  for (const Parameter& parameter : parameters) {
    const at::Tensor expected = parameter.tensor.grad();
    EXPECT_LT((got.at(parameter.name) - expected).norm().item<double>(), 1e-5 * expected.norm().item<double>())
        << parameter.name;
    EXPECT_GT(expected.norm().item<double>(), 0) << parameter.name;
  }
}

TEST(Lora, RolloutsReadTheHeadWithItsAdapter) {
  const auto model = tiny_model();
  const Forest forest = some_forest();
  const std::vector<uint8_t> all(forest.num_segments(), 1);
  const std::vector<float> before = testing::forward_logprobs(*model, forest, all);
  LoraOptions options = mixed_options();
  options.targets = {"lm_head"};
  add_trained(*model, options);
  const std::vector<float> expected = testing::forward_logprobs(*model, forest, all);
  Rollout rollout(*model, {});
  const std::vector<float> got = score(rollout, forest, all, std::make_shared<CancelFlag>()).logprobs;
  double moved = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) continue;
    EXPECT_NEAR(got[i], expected[i], 1e-4);
    moved = std::max<double>(moved, std::abs(expected[i] - before[i]));
  }
  EXPECT_GT(moved, 0.1);
}

TEST(Lora, MergingRoundsOnceToBfloat16) {
  const auto model = tiny_model();
  at::NoGradGuard no_grad;
  Linear& linear = model->layers()[0].q;
  linear.weight = linear.weight.to(at::kBFloat16);
  linear.lora = LoraPair{at::randn({4, 32}).to(at::kBFloat16), at::randn({32, 4}).to(at::kBFloat16), 0.37};
  const at::Tensor before = linear.weight.clone(), a = linear.lora->a, b = linear.lora->b;
  const at::Tensor sampled = merged_weight(linear).clone();
  merge_lora(*model);
  EXPECT_FALSE(linear.lora.has_value());
  EXPECT_TRUE(linear.weight.equal(sampled));
  const at::Tensor exact = before.to(at::kDouble) + at::mm(b.to(at::kDouble), a.to(at::kDouble)) * 0.37;
  // Rounding to 8 significant bits costs at most 2^-8 of the value, half of that relative to its power of two; float32
  // sums add little. Rounding B A, its multiple and the sum each would cost several times that.
  const at::Tensor error = (linear.weight.to(at::kDouble) - exact).abs();
  EXPECT_LT((error - exact.abs() * 0x1p-8).max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace stepward
