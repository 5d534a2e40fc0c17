// Checkpoint folders: what tensors a config asks for, loading, refusing, saving whole or in shards, random weights.
#include "stepward/checkpoint.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "helpers/temp_dir.h"

namespace stepward {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::expect_error;
using testing::TempDir;

ModelConfig tiny_config(const TempDir& directory, const Json& changes = Json::object()) {
  Json json{{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"zebra", {{"kept", true}}},
            {"vocab_size", 11},
            {"hidden_size", 8},
            {"intermediate_size", 12},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 2},
            {"num_key_value_heads", 1}};
  json.update(changes);
  directory.write("config.json", json.dump());
  return read_model_config(directory.path());
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void expect_equal(const TensorMap& a, const TensorMap& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

TEST(Checkpoint, ExpectedTensorsOfEachFamily) {
  const TempDir directory;
  const auto shapes = [&](const Json& changes) {
    std::map<std::string, std::vector<int64_t>> result;
    for (const auto& tensor : expected_tensors(tiny_config(directory, changes))) result[tensor.name] = tensor.shape;
    return result;
  };
  const auto llama = shapes(Json::object());
  EXPECT_EQ(llama.size(), 3u + 2 * 9);
  EXPECT_EQ(llama.at("model.embed_tokens.weight"), (std::vector<int64_t>{11, 8}));
  EXPECT_EQ(llama.at("model.layers.1.self_attn.k_proj.weight"), (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(llama.at("model.layers.1.mlp.down_proj.weight"), (std::vector<int64_t>{8, 12}));
  EXPECT_EQ(llama.at("lm_head.weight"), (std::vector<int64_t>{11, 8}));

  const auto biased = shapes({{"attention_bias", true}, {"mlp_bias", true}, {"tie_word_embeddings", true}});
  EXPECT_EQ(biased.size(), 2u + 2 * (9 + 7));
  EXPECT_EQ(biased.at("model.layers.0.self_attn.o_proj.bias"), std::vector<int64_t>{8});
  EXPECT_EQ(biased.at("model.layers.0.mlp.up_proj.bias"), std::vector<int64_t>{12});

  const auto qwen2 = shapes({{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}});
  EXPECT_EQ(qwen2.size(), 3u + 2 * (9 + 3));
  EXPECT_FALSE(qwen2.contains("model.layers.0.self_attn.o_proj.bias"));

  const auto qwen3 = shapes({{"architectures", {"Qwen3ForCausalLM"}}, {"model_type", "qwen3"}, {"head_dim", 16}});
  EXPECT_EQ(qwen3.size(), 3u + 2 * (9 + 2));
  EXPECT_EQ(qwen3.at("model.layers.0.self_attn.q_proj.weight"), (std::vector<int64_t>{32, 8}));
  EXPECT_EQ(qwen3.at("model.layers.0.self_attn.o_proj.weight"), (std::vector<int64_t>{8, 32}));
  EXPECT_EQ(qwen3.at("model.layers.0.self_attn.q_norm.weight"), std::vector<int64_t>{16});
}

TEST(Checkpoint, RandomWeightsAreTheSameEverywhere) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  const TensorMap weights = init_weights(config, 7, at::kFloat);
  // Computed apart from this code, in Python: the generator by hand, the quantile by statistics.NormalDist.
  const std::vector<float> embedding{0.030775005f,   -0.0133631425f, -0.0213593747f, 0.00104948273f,
                                     -0.0315888524f, 0.00468305731f, 0.0441252179f,  0.00472785067f};
  const std::vector<float> down{0.00830164086f, -0.0106273834f, 0.0141431503f, -0.00575791812f};
  const float* a = weights.at("model.embed_tokens.weight").const_data_ptr<float>();
  const float* b = weights.at("model.layers.1.mlp.down_proj.weight").const_data_ptr<float>();
  EXPECT_EQ(std::vector<float>(a, a + 8), embedding);
  EXPECT_EQ(std::vector<float>(b, b + 4), down);
  EXPECT_TRUE(at::equal(weights.at("model.norm.weight"), at::ones({8})));

  const TensorMap half = init_weights(config, 7, at::kBFloat16);
  EXPECT_TRUE(at::equal(half.at("lm_head.weight"), weights.at("lm_head.weight").to(at::kBFloat16)));
  EXPECT_FALSE(at::equal(init_weights(config, 8, at::kFloat).at("lm_head.weight"), weights.at("lm_head.weight")));
}

TEST(Checkpoint, RandomWeightsAreNormal) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory, {{"vocab_size", 50000}, {"initializer_range", 0.5}});
  const at::Tensor x = init_weights(config, 1, at::kFloat).at("lm_head.weight").to(at::kDouble) / 0.5;
  // 400000 draws: the standard errors of mean, deviation and kurtosis are 0.0016, 0.0011 and 0.008.
  EXPECT_NEAR(x.mean().item<double>(), 0.0, 0.008);
  EXPECT_NEAR(x.std().item<double>(), 1.0, 0.006);
  EXPECT_NEAR(x.pow(4).mean().item<double>(), 3.0, 0.04);
  EXPECT_NEAR((x.abs() > 1.959964).to(at::kDouble).mean().item<double>(), 0.05, 0.002);
  EXPECT_GT(x.max().item<double>(), 4.0);
}

TEST(Checkpoint, BiasesStartAtZero) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory, {{"attention_bias", true}});
  EXPECT_EQ(init_weights(config, 7, at::kFloat).at("model.layers.0.self_attn.q_proj.bias").abs().max().item<float>(),
            0);
}

TEST(Checkpoint, SaveAndLoadKeepWeightsAndConfig) {
  const TempDir source, out;
  const ModelConfig config = tiny_config(source, {{"torch_dtype", "float32"}});
  source.write("generation_config.json", R"({"eos_token_id": 4})");
  source.write("tokenizer.json", "{}");
  source.write("chat_template.jinja", "{{ messages }}");
  source.write("notes.md", "stays behind");
  source.write("pytorch_model.bin.index.json", "{}");
  const TensorMap weights = init_weights(config, 1, at::kFloat);
  save_checkpoint(out / "deep/model", source.path(), config, weights);
  EXPECT_EQ(names_in(out / "deep/model"),
            (std::vector<std::string>{"chat_template.jinja", "config.json", "generation_config.json",
                                      "model.safetensors", "tokenizer.json"}));
  const ModelConfig again = read_model_config(out / "deep/model");
  EXPECT_EQ(Json::parse(again.json), Json::parse(config.json));
  EXPECT_LT(again.json.find("zebra"), again.json.find("vocab_size"));  // keys keep their order
  EXPECT_EQ(again.eos_ids, std::vector<int32_t>{4});
  expect_equal(load_weights(out / "deep/model", again, at::kFloat), weights);
}

TEST(Checkpoint, DtypeKeyTellsWhatIsWritten) {
  const TempDir source;
  const auto saved_keys = [&](const Json& changes) {
    const ModelConfig config = tiny_config(source, changes);
    const TempDir out;
    save_checkpoint(out.path(), "", config, init_weights(config, 1, at::kBFloat16));
    return Json::parse(out.read("config.json"));
  };
  EXPECT_EQ(saved_keys({{"dtype", "float32"}})["dtype"], "bfloat16");
  EXPECT_FALSE(saved_keys({{"dtype", "float32"}}).contains("torch_dtype"));
  EXPECT_EQ(saved_keys({{"torch_dtype", "float32"}})["torch_dtype"], "bfloat16");
  EXPECT_EQ(saved_keys(Json::object())["torch_dtype"], "bfloat16");
}

TEST(Checkpoint, ShardsAndBack) {
  const TempDir source, out;
  const ModelConfig config = tiny_config(source);
  const TensorMap weights = init_weights(config, 1, at::kFloat);
  save_checkpoint(out.path(), source.path(), config, weights);
  save_checkpoint(out.path(), source.path(), config, weights, 1500);  // replaces the single file
  EXPECT_FALSE(fs::exists(out / "model.safetensors"));
  const Json index = Json::parse(out.read("model.safetensors.index.json"));
  int64_t bytes = 0;
  for (const auto& [name, tensor] : weights) bytes += static_cast<int64_t>(tensor.nbytes());
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["weight_map"].size(), weights.size());
  EXPECT_EQ(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00004.safetensors");
  EXPECT_EQ(index["weight_map"]["lm_head.weight"], "model-00004-of-00004.safetensors");
  expect_equal(load_weights(out.path(), config, at::kFloat), weights);

  out.write(".model.safetensors.stepward-tmp123", "left by a killed process");
  save_checkpoint(out.path(), source.path(), config, weights);
  EXPECT_EQ(names_in(out.path()), (std::vector<std::string>{"config.json", "model.safetensors"}));
}

TEST(Checkpoint, ConvertsStoredDtypes) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  const TensorMap weights = init_weights(config, 1, at::kFloat);
  for (const auto dtype : {at::kDouble, at::kHalf, at::kBFloat16}) {
    TensorMap stored;
    for (const auto& [name, tensor] : weights) stored[name] = tensor.to(dtype);
    write_safetensors(directory / "model.safetensors", stored);
    const TensorMap loaded = load_weights(directory.path(), config, at::kFloat);
    for (const auto& [name, tensor] : loaded) {
      EXPECT_EQ(tensor.scalar_type(), at::kFloat);
      EXPECT_TRUE(at::equal(tensor, stored[name].to(at::kFloat))) << name;
    }
  }
  TensorMap stored = weights;
  stored["model.norm.weight"] = at::ones({8}, at::kInt);
  write_safetensors(directory / "model.safetensors", stored);
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"model.safetensors", "model.norm.weight", "Int"},
               [&] { load_weights(directory.path(), config, at::kFloat); });
}

TEST(Checkpoint, LoadedWeightsAreOwned) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  write_safetensors(directory / "model.safetensors", init_weights(config, 1, at::kFloat));
  const std::string before = directory.read("model.safetensors");
  load_weights(directory.path(), config, at::kFloat).at("lm_head.weight").zero_();
  EXPECT_EQ(directory.read("model.safetensors"), before);
}

TEST(Checkpoint, TiedHeadMayBeStoredIfItIsTheSame) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory, {{"tie_word_embeddings", true}});
  TensorMap stored = init_weights(config, 1, at::kFloat);
  stored["lm_head.weight"] = stored["model.embed_tokens.weight"];
  stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({2});
  write_safetensors(directory / "model.safetensors", stored);
  EXPECT_EQ(load_weights(directory.path(), config, at::kFloat).size(), stored.size() - 2);
  stored["lm_head.weight"] = stored["lm_head.weight"] + 1;
  write_safetensors(directory / "model.safetensors", stored);
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"lm_head.weight differs", "tie_word_embeddings"},
               [&] { load_weights(directory.path(), config, at::kFloat); });
}

TEST(Checkpoint, NamesWrongTensors) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  const TensorMap weights = init_weights(config, 1, at::kFloat);
  const auto expect_refused = [&](const TensorMap& stored, const std::vector<std::string>& parts) {
    write_safetensors(directory / "model.safetensors", stored);
    expect_error(ErrorCode::CHECKPOINT_INVALID, parts, [&] { load_weights(directory.path(), config, at::kFloat); });
  };
  TensorMap stored = weights;
  stored.erase("model.layers.1.mlp.up_proj.weight");
  expect_refused(stored, {"model.layers.1.mlp.up_proj.weight", "[12, 8]", "missing"});
  stored = weights;
  stored["model.norm.weight"] = at::ones({9});
  expect_refused(stored, {"model.norm.weight", "[8]", "[9]"});
  stored = weights;
  stored["model.layers.0.self_attn.q_norm.weight"] = at::ones({4});
  expect_refused(stored, {"self_attn.q_norm.weight", "no place"});
}

TEST(Checkpoint, NamesMissingFiles) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  const auto load = [&] { load_weights(directory.path(), config, at::kFloat); };
  const ErrorCode invalid = ErrorCode::CHECKPOINT_INVALID;
  expect_error(ErrorCode::FILE_NOT_FOUND, {"gone"}, [&] { load_weights(directory / "gone", config, at::kFloat); });
  expect_error(invalid, {"no weights", "model.safetensors"}, load);
  directory.write("pytorch_model.bin", "pickle");
  expect_error(invalid, {"pytorch_model.bin", "pickle", "never read", "save_pretrained"}, load);

  save_checkpoint(directory.path(), "", config, init_weights(config, 1, at::kFloat), 1500);
  fs::remove(directory / "model-00002-of-00004.safetensors");
  expect_error(invalid, {"index.json", "model-00002-of-00004.safetensors", "does not exist"}, load);
  directory.write("model.safetensors.index.json", R"({"weight_map": {"x": "../../etc/passwd"}})");
  expect_error(invalid, {"index.json", "x", "../../etc/passwd"}, load);
  directory.write("model.safetensors.index.json", R"({"weight_map": []})");
  expect_error(invalid, {"index.json", "weight_map"}, load);
  directory.write("model.safetensors.index.json", R"({"weight_map": {"x": "model-00001-of-00004.safetensors"}})");
  expect_error(invalid, {"model-00001-of-00004.safetensors", "tensor x is missing"}, load);
  directory.write("model.safetensors.index.json", "{");
  expect_error(invalid, {"index.json", "not valid JSON"}, load);
}

TEST(Checkpoint, NamesTruncatedFiles) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  save_checkpoint(directory.path(), "", config, init_weights(config, 1, at::kFloat));
  const auto size = fs::file_size(directory / "model.safetensors");
  fs::resize_file(directory / "model.safetensors", size - 5);
  expect_error(ErrorCode::CHECKPOINT_INVALID,
               {"model.safetensors", "truncated", std::to_string(size), std::to_string(size - 5)},
               [&] { load_weights(directory.path(), config, at::kFloat); });
}

TEST(Checkpoint, FailedSaveLeavesTheOldFolderWhole) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  const TensorMap weights = init_weights(config, 1, at::kFloat);
  save_checkpoint(directory.path(), "", config, weights);
  const std::string before = directory.read("model.safetensors");
  const auto names = names_in(directory.path());

  TensorMap bad = init_weights(config, 2, at::kFloat);
  bad.erase("model.norm.weight");
  expect_error(ErrorCode::INVALID_ARGUMENT, {"model.norm.weight"},
               [&] { save_checkpoint(directory.path(), "", config, bad); });
  bad["model.norm.weight"] = at::ones({8}, at::kHalf);
  expect_error(ErrorCode::INVALID_ARGUMENT, {"model.norm.weight", "Half"},
               [&] { save_checkpoint(directory.path(), "", config, bad); });
  // Fails after the weights were written under their temporary name.
  expect_error(ErrorCode::FILE_NOT_FOUND, {"gone"}, [&] {
    save_checkpoint(directory.path(), directory / "gone", config, init_weights(config, 2, at::kFloat));
  });
  EXPECT_EQ(directory.read("model.safetensors"), before);
  EXPECT_EQ(names_in(directory.path()), names);
  expect_error(ErrorCode::FILE_NOT_FOUND, {"gone"},
               [&] { save_checkpoint(directory / "new/deep", directory / "gone", config, weights); });
  EXPECT_FALSE(fs::exists(directory / "new"));
  expect_error(ErrorCode::IO_ERROR, {"config.json"},
               [&] { save_checkpoint(directory / "config.json", "", config, weights); });
}

TEST(Checkpoint, SavingOverTheSourceKeepsItsFiles) {
  const TempDir directory;
  const ModelConfig config = tiny_config(directory);
  directory.write("tokenizer.json", "{\"a\": 1}");
  save_checkpoint(directory.path(), "", config, init_weights(config, 1, at::kFloat));
  TensorMap weights = read_safetensors(directory / "model.safetensors");  // views of the very file that is replaced
  save_checkpoint(directory.path(), directory.path(), config, weights);
  expect_equal(load_weights(directory.path(), config, at::kFloat), weights);
  EXPECT_EQ(directory.read("tokenizer.json"), "{\"a\": 1}");
}

}  // namespace
}  // namespace stepward
