// config.json and generation_config.json to ModelConfig, with transformers' defaults for absent keys. Rope, windows
// and end-of-sequence ids have files of their own; weights are no concern here.
#include "stepward/model_config.h"

#include <algorithm>
#include <array>

#include "config_parts.h"
#include "json_fields.h"
#include "stepward/error.h"

namespace stepward {

namespace {

namespace fs = std::filesystem;

constexpr int64_t max_layers = 10000;

// What each family's transformers configuration class says when a key is absent; 0 for kv heads: as many as heads.
struct FamilyTraits {
  Family family;
  const char* model_type;
  const char* architecture;
  int64_t head_dim, kv_heads, max_positions;
  std::optional<int32_t> eos_id;
};

constexpr std::array<FamilyTraits, 4> families{{
    {Family::llama, "llama", "LlamaForCausalLM", 0, 0, 2048, 2},
    {Family::mistral, "mistral", "MistralForCausalLM", 0, 8, 131072, 2},
    {Family::qwen2, "qwen2", "Qwen2ForCausalLM", 0, 32, 32768, std::nullopt},
    {Family::qwen3, "qwen3", "Qwen3ForCausalLM", 128, 32, 32768, std::nullopt},
}};

std::vector<std::string> read_architectures(const JsonFields& config) {
  const Json* value = config.find("architectures");
  if (value == nullptr) return {};
  const auto is_string = [](const Json& item) { return item.is_string(); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_string)) {
    config.bad("architectures", "a list of strings");
  }
  return value->get<std::vector<std::string>>();
}

const FamilyTraits& find_family(const JsonFields& config) {
  const std::vector<std::string> architectures = read_architectures(config);
  const std::string type = config.string("model_type", "");
  if (type.empty() && architectures.empty()) config.missing("model_type");
  const auto known = std::find_if(families.begin(), families.end(), [&](const FamilyTraits& traits) {
    return type.empty() ? architectures.front() == traits.architecture : type == traits.model_type;
  });
  if (known == families.end()) {
    fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": ", type.empty() ? "architecture \"" : "model_type \"",
         type.empty() ? architectures.front() : type, "\" is not supported, only llama, mistral, qwen2 and qwen3");
  }
  if (!architectures.empty() &&
      std::find(architectures.begin(), architectures.end(), known->architecture) == architectures.end()) {
    fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": architecture \"", architectures.front(),
         "\" is not supported, only ", known->architecture, " for model_type \"", known->model_type, "\"");
  }
  return *known;
}

// Features that change the computation and that no family here implements.
void refuse_features(const JsonFields& config) {
  const std::string activation = config.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": hidden_act \"", activation, "\" is not supported, only silu");
  }
  if (config.find("quantization_config") != nullptr) {
    fail(ErrorCode::UNSUPPORTED_MODEL, config.place(),
         ": quantization_config is set; quantised checkpoints are not supported, use the float32, bfloat16 or float16 "
         "one");
  }
  for (const char* key : {"num_experts", "num_local_experts"}) {
    if (config.integer(key, 0, max_extent, 0) > 0) {
      fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": ", key, " is set; mixture-of-experts is not supported");
    }
  }
}

std::string read_dtype(const JsonFields& config) {
  const char* key = config.find("dtype") != nullptr ? "dtype" : "torch_dtype";
  std::string dtype = config.string(key, "float32");
  if (dtype.rfind("torch.", 0) == 0) dtype = dtype.substr(6);
  if (dtype != "float32" && dtype != "bfloat16" && dtype != "float16") {
    fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": ", key, " \"", dtype,
         "\" is not supported, only float32, bfloat16 and float16");
  }
  return dtype;
}

void read_heads(const JsonFields& config, const FamilyTraits& traits, ModelConfig& result) {
  result.num_heads = config.integer("num_attention_heads", 1, max_extent);
  const bool kv_given = config.contains("num_key_value_heads");
  const int64_t kv_default = kv_given || traits.kv_heads == 0 ? result.num_heads : traits.kv_heads;
  result.num_kv_heads = config.integer("num_key_value_heads", 1, max_extent, kv_default);
  if (result.num_heads % result.num_kv_heads != 0) {
    fail(ErrorCode::CHECKPOINT_INVALID, config.place(), ": num_attention_heads ", result.num_heads,
         " is not a multiple of num_key_value_heads ", result.num_kv_heads);
  }
  if (config.find("head_dim") != nullptr || traits.head_dim != 0) {
    result.head_dim = config.integer("head_dim", 1, max_extent, traits.head_dim);
  } else if (result.hidden_size % result.num_heads != 0) {
    fail(ErrorCode::CHECKPOINT_INVALID, config.place(), ": hidden_size ", result.hidden_size,
         " is not a multiple of num_attention_heads ", result.num_heads, " and head_dim is not given");
  } else {
    result.head_dim = result.hidden_size / result.num_heads;
  }
  if (result.head_dim % 2 != 0) {
    fail(ErrorCode::CHECKPOINT_INVALID, config.place(), ": head_dim must be even for rotary positions, got ",
         result.head_dim);
  }
}

fs::path find_config_file(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    fail(ErrorCode::FILE_NOT_FOUND, "model folder ", directory.string(), " does not exist or is not a folder");
  }
  const fs::path file = directory / "config.json";
  if (!fs::exists(file, error)) {
    const bool adapter = fs::exists(directory / "adapter_config.json", error);
    fail(ErrorCode::FILE_NOT_FOUND, "model folder ", directory.string(), " has no config.json",
         adapter ? "; it holds a LoRA adapter, name the folder of its base model" : "");
  }
  return file;
}

}  // namespace

ModelConfig read_model_config(const fs::path& directory) {
  const fs::path file = find_config_file(directory);
  ModelConfig result;
  result.json = read_text_file(file);
  const Json json = parse_json_object(result.json, file);
  const JsonFields config(json, file.string());

  const FamilyTraits& traits = find_family(config);
  refuse_features(config);
  result.family = traits.family;
  result.vocab_size = config.integer("vocab_size", 1, max_extent);
  result.hidden_size = config.integer("hidden_size", 1, max_extent);
  result.intermediate_size = config.integer("intermediate_size", 1, max_extent);
  result.num_layers = config.integer("num_hidden_layers", 1, max_layers);
  read_heads(config, traits, result);
  result.max_positions = config.integer("max_position_embeddings", 1, max_position_limit, traits.max_positions);
  result.rms_norm_eps = config.number("rms_norm_eps", 1e-6);
  if (result.rms_norm_eps < 0) config.bad("rms_norm_eps", "a number of at least 0");
  result.initializer_range = config.number("initializer_range", 0.02);
  if (result.initializer_range < 0) config.bad("initializer_range", "a number of at least 0");
  result.rope = read_rope_config(config, result.max_positions);
  result.tie_word_embeddings = config.boolean("tie_word_embeddings", false);

  const bool has_bias_option = traits.family == Family::llama || traits.family == Family::qwen3;
  const bool attention_bias = has_bias_option && config.boolean("attention_bias", false);
  result.qkv_bias = attention_bias || traits.family == Family::qwen2;
  result.o_bias = attention_bias;
  result.mlp_bias = traits.family == Family::llama && config.boolean("mlp_bias", false);
  result.qk_norm = traits.family == Family::qwen3;

  result.window = read_windows(config, traits.family, result.num_layers);
  result.eos_ids = read_eos_ids(config, directory, traits.eos_id, result.vocab_size);
  result.dtype = read_dtype(config);
  return result;
}

}  // namespace stepward
