// read_model_config: the four families, both spellings, defaults as in transformers, and every refusal by name.
#include "stepward/model_config.h"

#include <nlohmann/json.hpp>
#include <random>

#include "helpers/temp_dir.h"

namespace stepward {
namespace {

using Json = nlohmann::ordered_json;
using testing::expect_error;
using testing::TempDir;

Json base_config(const std::string& model_type = "llama") {
  return {{"model_type", model_type}, {"vocab_size", 100},        {"hidden_size", 32},       {"intermediate_size", 64},
          {"num_hidden_layers", 4},   {"num_attention_heads", 4}, {"num_key_value_heads", 2}};
}

ModelConfig read(const Json& config) {
  const TempDir directory;
  directory.write("config.json", config.dump());
  return read_model_config(directory.path());
}

void expect_refused(ErrorCode code, const std::vector<std::string>& parts, const Json& changes,
                    const std::string& model_type = "llama") {
  Json config = base_config(model_type);
  config.update(changes);
  SCOPED_TRACE(changes.dump());
  expect_error(code, parts, [&] { read(config); });
}

TEST(ModelConfig, LlamaInTransformers4Spelling) {
  Json json = base_config();
  json.update({{"architectures", {"LlamaForCausalLM"}},
               {"attention_bias", true},
               {"eos_token_id", {2, 7, 2}},
               {"head_dim", 16},
               {"hidden_act", "silu"},
               {"initializer_range", 0.5},
               {"max_position_embeddings", 131072},
               {"mlp_bias", true},
               {"pretraining_tp", 1},
               {"rms_norm_eps", 1e-5},
               {"rope_scaling",
                {{"factor", 8.0},
                 {"low_freq_factor", 1.0},
                 {"high_freq_factor", 4.0},
                 {"original_max_position_embeddings", 8192},
                 {"rope_type", "llama3"}}},
               {"rope_theta", 500000.0},
               {"tie_word_embeddings", true},
               {"torch_dtype", "bfloat16"}});
  const ModelConfig config = read(json);
  EXPECT_EQ(config.family, Family::llama);
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.hidden_size, 32);
  EXPECT_EQ(config.intermediate_size, 64);
  EXPECT_EQ(config.num_layers, 4);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.initializer_range, 0.5);
  EXPECT_TRUE(config.tie_word_embeddings && config.qkv_bias && config.o_bias && config.mlp_bias);
  EXPECT_FALSE(config.qk_norm);
  EXPECT_EQ(config.rope.kind, RopeKind::llama3);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.factor, 8.0);
  EXPECT_EQ(config.rope.original_max_positions, 8192);
  EXPECT_EQ(config.window, std::vector<int64_t>(4, 0));
  EXPECT_EQ(config.eos_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(config.dtype, "bfloat16");
  EXPECT_EQ(Json::parse(config.json), json);
}

TEST(ModelConfig, Transformers5Spelling) {
  Json json = base_config();
  json["dtype"] = "float16";
  json["rope_parameters"] = {{"rope_type", "linear"}, {"rope_theta", 20000}, {"factor", 2}};
  const ModelConfig config = read(json);
  EXPECT_EQ(config.dtype, "float16");
  EXPECT_EQ(config.rope.kind, RopeKind::linear);
  EXPECT_EQ(config.rope.theta, 20000.0);
  EXPECT_EQ(config.rope.factor, 2.0);
}

TEST(ModelConfig, LegacyTypeKeyAndInnerThetaWins) {
  Json json = base_config();
  json["rope_theta"] = 5.0;
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}, {"rope_theta", 7.0}};
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 9.0}};
  const ModelConfig config = read(json);
  EXPECT_EQ(config.rope.kind, RopeKind::linear);
  EXPECT_EQ(config.rope.theta, 7.0);
}

TEST(ModelConfig, YarnOptions) {
  Json json = base_config("qwen2");
  json["max_position_embeddings"] = 131072;
  json["rope_parameters"] = {
      {"rope_type", "yarn"}, {"factor", nullptr},      {"original_max_position_embeddings", 32768},
      {"beta_fast", 24},     {"beta_slow", 0},         {"mscale", 1.0},
      {"truncate", false},   {"attention_factor", 1.5}};
  const RopeConfig rope = read(json).rope;
  EXPECT_EQ(rope.kind, RopeKind::yarn);
  EXPECT_EQ(rope.factor, 4.0);  // from the two context lengths
  EXPECT_EQ(rope.original_max_positions, 32768);
  EXPECT_EQ(rope.beta_fast, 24.0);
  EXPECT_EQ(rope.beta_slow, 1.0);  // 0 means not given
  EXPECT_EQ(rope.mscale, 1.0);
  EXPECT_EQ(rope.mscale_all_dim, 0.0);
  EXPECT_EQ(rope.attention_factor, 1.5);
  EXPECT_FALSE(rope.truncate);

  json["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_EQ(read(json).rope.original_max_positions, 131072);  // max_position_embeddings stands in
  json["original_max_position_embeddings"] = 4096;
  EXPECT_EQ(read(json).rope.original_max_positions, 4096);
}

TEST(ModelConfig, FamilyDefaults) {
  Json json = base_config();
  json.erase("num_key_value_heads");
  const ModelConfig llama = read(json);
  EXPECT_EQ(llama.num_kv_heads, 4);
  EXPECT_EQ(llama.head_dim, 8);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.rope.kind, RopeKind::standard);
  EXPECT_EQ(llama.rope.theta, 10000.0);
  EXPECT_EQ(llama.eos_ids, std::vector<int32_t>{2});
  EXPECT_EQ(llama.dtype, "float32");
  EXPECT_FALSE(llama.tie_word_embeddings || llama.qkv_bias || llama.o_bias || llama.mlp_bias || llama.qk_norm);

  json = base_config("mistral");
  json.erase("num_key_value_heads");
  json["num_attention_heads"] = 16;
  const ModelConfig mistral = read(json);
  EXPECT_EQ(mistral.num_kv_heads, 8);
  EXPECT_EQ(mistral.max_positions, 131072);
  EXPECT_EQ(mistral.window, std::vector<int64_t>(4, 4096));

  json = base_config("qwen2");
  json["num_key_value_heads"] = nullptr;
  const ModelConfig qwen2 = read(json);
  EXPECT_EQ(qwen2.num_kv_heads, 4);
  EXPECT_EQ(qwen2.max_positions, 32768);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.qk_norm);
  EXPECT_TRUE(qwen2.eos_ids.empty());

  const ModelConfig qwen3 = read(base_config("qwen3"));
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias || qwen3.o_bias);
  json = base_config("qwen3");
  json["attention_bias"] = true;
  EXPECT_TRUE(read(json).qkv_bias && read(json).o_bias);
}

TEST(ModelConfig, FamilyFromArchitecturesAlone) {
  Json json = base_config();
  json.erase("model_type");
  json["architectures"] = {"Qwen3ForCausalLM"};
  EXPECT_EQ(read(json).family, Family::qwen3);
}

TEST(ModelConfig, SlidingWindows) {
  Json json = base_config("mistral");
  json["sliding_window"] = nullptr;
  EXPECT_EQ(read(json).window, std::vector<int64_t>(4, 0));
  json["sliding_window"] = 16;
  EXPECT_EQ(read(json).window, std::vector<int64_t>(4, 16));

  json = base_config("qwen2");
  json["sliding_window"] = 16;
  json["max_window_layers"] = 3;
  EXPECT_EQ(read(json).window, std::vector<int64_t>(4, 0));  // use_sliding_window is false
  json["use_sliding_window"] = true;
  EXPECT_EQ(read(json).window, (std::vector<int64_t>{0, 0, 0, 16}));
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_EQ(read(json).window, (std::vector<int64_t>{16, 0, 16, 0}));
  json["use_sliding_window"] = false;
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"layer_types[0]", "use_sliding_window"}, [&] { read(json); });
  json["layer_types"] = {"full_attention"};
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"layer_types", "4 layers"}, [&] { read(json); });
  json["layer_types"] = {"full_attention", "linear_attention", "full_attention", "full_attention"};
  expect_error(ErrorCode::UNSUPPORTED_MODEL, {"layer_types[1]", "linear_attention"}, [&] { read(json); });
}

TEST(ModelConfig, GenerationConfigDecidesEos) {
  const TempDir directory;
  Json json = base_config();
  json["eos_token_id"] = 5;
  directory.write("config.json", json.dump());
  directory.write("generation_config.json", R"({"eos_token_id": [9, -1, 100, 3]})");
  EXPECT_EQ(read_model_config(directory.path()).eos_ids, (std::vector<int32_t>{9, 3}));  // ids no token has are dropped
  directory.write("generation_config.json", R"({"do_sample": false})");
  EXPECT_EQ(read_model_config(directory.path()).eos_ids, std::vector<int32_t>{5});
  directory.write("generation_config.json", R"({"eos_token_id": "x"})");
  expect_error(ErrorCode::CHECKPOINT_INVALID, {"generation_config.json", "eos_token_id"},
               [&] { read_model_config(directory.path()); });
}

TEST(ModelConfig, RefusesByName) {
  const ErrorCode unsupported = ErrorCode::UNSUPPORTED_MODEL;
  expect_refused(unsupported, {"config.json", "gemma2"}, {{"model_type", "gemma2"}});
  expect_refused(unsupported, {"qwen2_moe"}, {{"model_type", "qwen2_moe"}});
  expect_refused(unsupported, {"LlamaForSequenceClassification"},
                 {{"architectures", {"LlamaForSequenceClassification"}}});
  expect_refused(unsupported, {"hidden_act", "gelu"}, {{"hidden_act", "gelu"}});
  expect_refused(unsupported, {"quantization_config"}, {{"quantization_config", {{"quant_method", "awq"}}}});
  expect_refused(unsupported, {"num_local_experts"}, {{"num_local_experts", 8}});
  expect_refused(unsupported, {"partial_rotary_factor", "0.5"}, {{"partial_rotary_factor", 0.5}});
  expect_refused(unsupported, {"partial_rotary_factor"},
                 {{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}}});
  expect_refused(unsupported, {"rope_scaling", "dynamic"}, {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}});
  expect_refused(unsupported, {"longrope"}, {{"rope_parameters", {{"rope_type", "longrope"}}}});
  expect_refused(unsupported, {"full_attention"},
                 {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}});
  expect_refused(unsupported, {"torch_dtype", "float8_e4m3fn"}, {{"torch_dtype", "float8_e4m3fn"}});
}

TEST(ModelConfig, NamesBadKeys) {
  const ErrorCode invalid = ErrorCode::CHECKPOINT_INVALID;
  expect_refused(invalid, {"config.json", "hidden_size", "\"32\""}, {{"hidden_size", "32"}});
  expect_refused(invalid, {"vocab_size", "-3"}, {{"vocab_size", -3}});
  expect_refused(invalid, {"vocab_size", "1e+30"}, {{"vocab_size", 1e30}});
  expect_refused(invalid, {"num_hidden_layers"}, {{"num_hidden_layers", 18446744073709551615u}});
  expect_refused(invalid, {"num_attention_heads 4", "num_key_value_heads 3"}, {{"num_key_value_heads", 3}});
  expect_refused(invalid, {"hidden_size 30", "head_dim is not given"}, {{"hidden_size", 30}});
  expect_refused(invalid, {"head_dim must be even", "7"}, {{"head_dim", 7}});
  expect_refused(invalid, {"rms_norm_eps"}, {{"rms_norm_eps", "tiny"}});
  expect_refused(invalid, {"tie_word_embeddings", "true or false"}, {{"tie_word_embeddings", 1}});
  expect_refused(invalid, {"rope_theta"}, {{"rope_theta", 0}});
  expect_refused(invalid, {"rope_scaling", "\"factor\" is missing"}, {{"rope_scaling", {{"type", "linear"}}}});
  expect_refused(invalid, {"low_freq_factor"}, {{"rope_scaling", {{"type", "llama3"}, {"factor", 2}}}});
  expect_refused(invalid, {"rope_scaling", "object"}, {{"rope_scaling", 3}});
  expect_refused(invalid, {"architectures"}, {{"architectures", "LlamaForCausalLM"}});
  expect_refused(invalid, {"sliding_window"}, {{"sliding_window", 0}}, "mistral");
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    Json json = base_config();
    json.erase(key);
    expect_error(invalid, {std::string("\"") + key + "\" is missing"}, [&] { read(json); });
  }
}

TEST(ModelConfig, NamesBadFiles) {
  const TempDir directory;
  expect_error(ErrorCode::FILE_NOT_FOUND, {"nowhere"}, [&] { read_model_config(directory / "nowhere"); });
  expect_error(ErrorCode::FILE_NOT_FOUND, {"no config.json"}, [&] { read_model_config(directory.path()); });
  directory.write("adapter_config.json", "{}");
  expect_error(ErrorCode::FILE_NOT_FOUND, {"LoRA adapter"}, [&] { read_model_config(directory.path()); });
  for (const char* text : {"", "{", "[1]", "{\"model_type\": \"llama\"", "\xff\xfe"}) {
    directory.write("config.json", text);
    expect_error(ErrorCode::CHECKPOINT_INVALID, {"config.json"}, [&] { read_model_config(directory.path()); });
  }
}

// Whatever the damage: a config or an Error of the two expected codes, never a crash or another exception.
TEST(ModelConfig, RandomDamageNeverCrashes) {
  const TempDir directory;
  Json json = base_config("qwen3");
  json["layer_types"] = {"full_attention", "full_attention", "full_attention", "full_attention"};
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  json["eos_token_id"] = {1, 2};
  const std::string good = json.dump();
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = good;
    if (round % 4 == 0) {
      bytes.resize(random() % good.size());
    } else {
      bytes[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    }
    directory.write("config.json", bytes);
    try {
      EXPECT_EQ(rope_table(read_model_config(directory.path())).inv_freq.size(), 64u);
      EXPECT_NE(round % 4, 0) << "a truncated config was accepted";
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::CHECKPOINT_INVALID || error.code() == ErrorCode::UNSUPPORTED_MODEL);
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace stepward
