// A decoder-only transformer of one of the four families: weights by Hugging Face name, and the forest forward pass.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "stepward/checkpoint.h"
#include "stepward/forest.h"
#include "stepward/model_config.h"

namespace stepward {

struct LinearInput;

struct ModelOptions {
  std::filesystem::path directory;
  std::string device = "auto";        // auto | cpu | cuda
  std::string dtype = "auto";         // auto | float32 | bfloat16
  std::optional<uint64_t> init_seed;  // set: random weights from config.json alone
};

// A LoRA adapter of one linear layer (arXiv 2106.09685 eq. 3): y += scale * (x A^T) B^T.
struct LoraPair {
  at::Tensor a;      // [rank, in]
  at::Tensor b;      // [out, rank]
  double scale = 1;  // alpha / rank, or alpha / sqrt(rank)
};

struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out] or undefined
  std::optional<LoraPair> lora;
};

struct LayerWeights {
  at::Tensor input_norm, post_attention_norm;  // [hidden]
  Linear q, k, v, o;
  at::Tensor q_norm, k_norm;  // [head_dim] or undefined
  Linear gate, up, down;
};

// Whether a layer's MLP is three bare products: no biases, no adapters.
inline bool has_plain_mlp(const LayerWeights& w) {
  const auto plain = [](const Linear& linear) { return !linear.bias.defined() && !linear.lora; };
  return plain(w.gate) && plain(w.up) && plain(w.down);
}

// Attention of one layer: q [T, num_heads, head_dim], k and v [T, num_kv_heads, head_dim], all after RoPE ->
// [T, num_heads * head_dim].
using Attention =
    std::function<at::Tensor(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

class Model {
 public:
  // Loads or initialises. Throws what checkpoint.h throws, and UNSUPPORTED_DEVICE.
  static std::unique_ptr<Model> load(const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  at::Device device() const;
  at::ScalarType dtype() const;

  // Hidden states after the final norm, [T, hidden]. Differentiable where grad mode is on.
  at::Tensor forward(const Forest& forest, const PackedForest& packed) const;

  // The same with any attention: tokens and positions [T] i64 on the model's device -> hidden states [T, hidden].
  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& positions, const Attention& attention) const;

  // While set, a layer keeps only its input for the backward pass and runs again there (arXiv 1604.06174): about a
  // third more arithmetic for a fraction of the memory, and the same gradients bit for bit.
  void set_checkpoint_layers(bool on) { checkpoint_layers_ = on; }

  // The output projection, [vocab, hidden]; the embedding itself when tied.
  const at::Tensor& head() const { return head_.weight; }

  // The same with its adapter, which a tied head never has: the embedding is not a linear layer.
  Linear& head_linear() { return head_; }
  const Linear& head_linear() const { return head_; }

  const at::Tensor& embedding() const { return embedding_; }    // [vocab, hidden]
  const at::Tensor& final_norm() const { return final_norm_; }  // [hidden]

  // Grows whenever weights or adapters change: what was computed with another number is stale.
  uint64_t weights_version() const { return weights_version_; }
  void weights_changed() { ++weights_version_; }

  // Every weight by Hugging Face name, without adapters. Writing through them changes the model.
  TensorMap weights() const;
  int64_t num_parameters() const;

  void save(const std::filesystem::path& directory) const;

  // While one lives, adapters are skipped: the LoRA reference is the same model with the adapter off.
  class AdaptersOff {
   public:
    explicit AdaptersOff(Model& model) : model_(model) { ++model_.adapters_off_; }
    ~AdaptersOff() { --model_.adapters_off_; }
    AdaptersOff(const AdaptersOff&) = delete;

   private:
    Model& model_;
  };
  bool adapters_on() const { return adapters_off_ == 0; }

  std::vector<LayerWeights>& layers() { return layers_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }

 private:
  // Calls use(name, tensor) for every weight that the config has, by Hugging Face name. M is Model or const Model.
  template <typename M, typename Use>
  static void each_weight(M& model, const Use& use);

  // One layer: x [T, hidden] -> [T, hidden]; cos and sin [T, 1, head_dim / 2].
  at::Tensor layer(int64_t i, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                   const Attention& attention) const;

  // x [T, in] -> [T, out], adapter included unless AdaptersOff.
  at::Tensor apply(const Linear& linear, const LinearInput& x) const;
  at::Tensor mlp(const LayerWeights& w, const LinearInput& x) const;

  ModelConfig config_;
  std::filesystem::path source_;
  at::Tensor embedding_, final_norm_;
  Linear head_;
  std::vector<LayerWeights> layers_;
  at::Tensor inv_freq_;  // [head_dim / 2] f32
  double rope_scaling_ = 1;
  int adapters_off_ = 0;
  bool checkpoint_layers_ = false;
  uint64_t weights_version_ = 1;
};

}  // namespace stepward
