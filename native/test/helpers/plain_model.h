// The oracle of gradient tests: a model in float64 by plain differentiable tensor ops, one sequence at a time, with a
// mask and a whole log-softmax. It shares no code with the forward pass under test but the table of rotary frequencies.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/lora.h"
#include "stepward/model.h"
#include "stepward/model_config.h"

namespace stepward::testing {

class PlainModel {
 public:
  explicit PlainModel(const Model& model) : config_(model.config()), rope_(rope_table(config_)) {
    for (const auto& [name, tensor] : model.weights()) leaves_[name] = leaf(tensor);
    each_linear(model, [&](const std::string& name, const Linear& linear) {
      if (!linear.lora) return;
      leaves_[name + ".lora_a"] = leaf(linear.lora->a);
      leaves_[name + ".lora_b"] = leaf(linear.lora->b);
      scale_ = linear.lora->scale;
    });
  }

  // Sum of the log-probs of tokens [from, size), differentiable in every leaf.
  at::Tensor logprob(const std::vector<int32_t>& tokens, int64_t from) {
    const int64_t count = static_cast<int64_t>(tokens.size()), dim = config_.head_dim;
    const at::Tensor ids = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()));
    // Angles are float32 in the model's definition (transformers computes them so).
    const at::Tensor angles = at::arange(count, at::kFloat).unsqueeze(1) * at::tensor(rope_.inv_freq).unsqueeze(0);
    const at::Tensor cos = (angles.to(at::kDouble).cos() * rope_.attention_scaling).unsqueeze(1),
                     sin = (angles.to(at::kDouble).sin() * rope_.attention_scaling).unsqueeze(1);
    const auto rotated = [&](const at::Tensor& x) {
      const auto halves = x.chunk(2, 2);
      return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, 2);
    };
    at::Tensor x = at::index_select(leaves_.at("model.embed_tokens.weight"), 0, ids);
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
      const at::Tensor a = norm(x, layer + "input_layernorm.weight");
      at::Tensor q = linear(a, attention + "q_proj").view({count, config_.num_heads, dim});
      at::Tensor k = linear(a, attention + "k_proj").view({count, config_.num_kv_heads, dim});
      const int64_t group = config_.num_heads / config_.num_kv_heads;
      const at::Tensor v = linear(a, attention + "v_proj").view({count, config_.num_kv_heads, dim});
      if (config_.qk_norm) {
        q = norm(q, attention + "q_norm.weight");
        k = norm(k, attention + "k_norm.weight");
      }
      const auto heads = [&](const at::Tensor& t) { return t.repeat_interleave(group, 1).permute({1, 0, 2}); };
      const at::Tensor scores = at::matmul(rotated(q).permute({1, 0, 2}), heads(rotated(k)).transpose(1, 2)) /
                                std::sqrt(static_cast<double>(dim));
      const at::Tensor row = at::arange(count).unsqueeze(1), column = at::arange(count).unsqueeze(0);
      at::Tensor hidden = column > row;
      if (config_.window[i] > 0) hidden = hidden | (column <= row - config_.window[i]);
      const at::Tensor weights = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), 2);
      const at::Tensor out = at::matmul(weights, heads(v)).permute({1, 0, 2}).reshape({count, -1});
      x = x + linear(out, attention + "o_proj");
      const at::Tensor m = norm(x, layer + "post_attention_layernorm.weight");
      const at::Tensor gate = linear(m, layer + "mlp.gate_proj");
      x = x + linear(gate * at::sigmoid(gate) * linear(m, layer + "mlp.up_proj"), layer + "mlp.down_proj");
    }
    const at::Tensor logits =
        linear(norm(x, "model.norm.weight"), config_.tie_word_embeddings ? "model.embed_tokens" : "lm_head");
    const at::Tensor logprobs = at::log_softmax(logits, 1);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (int64_t t = std::max<int64_t>(from, 1); t < count; ++t) sum = sum + logprobs[t - 1][tokens[t]];
    return sum;
  }

  // Weights by their name, adapters as MODULE.lora_a and MODULE.lora_b.
  const std::map<std::string, at::Tensor>& leaves() const { return leaves_; }

 private:
  static at::Tensor leaf(const at::Tensor& tensor) {
    return tensor.detach().to(at::kDouble).clone().set_requires_grad(true);
  }
  at::Tensor norm(const at::Tensor& x, const std::string& weight) const {
    return x / (x.pow(2).mean(-1, true) + config_.rms_norm_eps).sqrt() * leaves_.at(weight);
  }
  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    at::Tensor y = at::matmul(x, leaves_.at(name + ".weight").t());
    if (leaves_.contains(name + ".bias")) y = y + leaves_.at(name + ".bias");
    if (leaves_.contains(name + ".lora_a"))
      y = y + at::matmul(at::matmul(x, leaves_.at(name + ".lora_a").t()), leaves_.at(name + ".lora_b").t()) * scale_;
    return y;
  }

  const ModelConfig config_;
  const RopeTable rope_;
  std::map<std::string, at::Tensor> leaves_;
  double scale_ = 1;
};

}  // namespace stepward::testing
