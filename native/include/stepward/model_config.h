// What a Hugging Face config.json says of the four supported families, in one struct.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace stepward {

enum class Family { llama, mistral, qwen2, qwen3 };
enum class RopeKind { standard, linear, llama3, yarn };

struct RopeConfig {
  RopeKind kind = RopeKind::standard;
  double theta = 10000.0;
  double factor = 1.0;
  int64_t original_max_positions = 0;                                        // llama3, yarn
  double low_freq_factor = 1.0, high_freq_factor = 4.0;                      // llama3
  double beta_fast = 32.0, beta_slow = 1.0, mscale = 0, mscale_all_dim = 0;  // yarn
  double attention_factor = 0;                                               // yarn; 0: derive it
  bool truncate = true;                                                      // yarn
};

struct ModelConfig {
  Family family = Family::llama;
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, max_positions = 0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;  // llama attention_bias sets both; qwen2 sets qkv_bias
  bool qk_norm = false;                                     // qwen3: RMSNorm over head_dim on q and k, before RoPE
  std::vector<int64_t> window;                              // [num_layers] sliding window in tokens; 0: full attention
  std::vector<int32_t> eos_ids;                             // generation_config.json, else config.json
  std::string dtype;  // of the stored weights: bfloat16, float16 or float32 (the default)
  std::string json;   // config.json as it was read, for writing it back
};

// Reads DIR/config.json (transformers 4 and 5 spellings) and generation_config.json where there is one.
// Throws FILE_NOT_FOUND, CHECKPOINT_INVALID (bad JSON, missing or ill-typed key, by name) or UNSUPPORTED_MODEL
// (architecture, activation, rope type or feature, by name).
ModelConfig read_model_config(const std::filesystem::path& directory);

struct RopeTable {
  std::vector<float> inv_freq;  // [head_dim / 2] float32, as transformers computes them
  float attention_scaling = 1;  // multiplies cos and sin (yarn)
};

// Inverse frequencies for the configured scaling (llama3: Llama 3.1; yarn: arXiv 2309.00071 section 3.4).
RopeTable rope_table(const ModelConfig& config);

}  // namespace stepward
