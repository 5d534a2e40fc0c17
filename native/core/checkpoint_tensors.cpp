// The names and shapes of a checkpoint, from its config alone.
#include "stepward/checkpoint.h"

namespace stepward {

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = config.num_heads * config.head_dim;
  const int64_t kv_size = config.num_kv_heads * config.head_dim;
  std::vector<ExpectedTensor> tensors;
  const auto norm = [&](const std::string& name, int64_t size) { tensors.push_back({name + ".weight", {size}}); };
  const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    tensors.push_back({name + ".weight", {out, in}});
    if (bias) tensors.push_back({name + ".bias", {out}});
  };
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm", hidden);
    linear(layer + "self_attn.q_proj", q_size, hidden, config.qkv_bias);
    linear(layer + "self_attn.k_proj", kv_size, hidden, config.qkv_bias);
    linear(layer + "self_attn.v_proj", kv_size, hidden, config.qkv_bias);
    linear(layer + "self_attn.o_proj", hidden, q_size, config.o_bias);
    if (config.qk_norm) {
      norm(layer + "self_attn.q_norm", config.head_dim);
      norm(layer + "self_attn.k_norm", config.head_dim);
    }
    norm(layer + "post_attention_layernorm", hidden);
    linear(layer + "mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias);
    linear(layer + "mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias);
    linear(layer + "mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias);
  }
  norm("model.norm", hidden);
  if (!config.tie_word_embeddings) linear("lm_head", config.vocab_size, hidden, false);
  return tensors;
}

}  // namespace stepward
