// Loading a model, and the transformer itself: one layer reads top to bottom. Attention is passed in, so that the
// forest pass and cached decoding share everything else.
#include "stepward/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/tensor.h>

#include "core/forest_attention.h"
#include "core/tensors.h"
#include "core/train/attention_plan.h"
#include "core/train/checkpoint.h"
#include "core/train/ops.h"
#include "core/train/varlen_attention.h"
#include "stepward/cpu_features.h"
#include "stepward/error.h"

namespace stepward {
namespace {

at::Device resolve_device(const std::string& name) {
#ifdef STEPWARD_CUDA
  const bool usable = at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
#else
  const bool usable = false;
#endif
  if (name == "cpu" || (name == "auto" && !usable)) return at::Device(at::kCPU);
  if (name != "auto" && name != "cuda")
    fail(ErrorCode::INVALID_ARGUMENT, "device: expected auto, cpu or cuda, got '", name, "'");
  if (!usable) {
#ifdef STEPWARD_CUDA
    fail(ErrorCode::UNSUPPORTED_DEVICE, "device cuda: libtorch finds no usable CUDA device");
#else
    fail(ErrorCode::UNSUPPORTED_DEVICE,
         "device cuda: this addon was built without CUDA; npm run doctor says what is missing, npm run setup builds it "
         "again");
#endif
  }
  return at::Device(at::kCUDA, 0);
}

at::ScalarType resolve_dtype(const std::string& name, const at::Device& device) {
  if (name == "float32" || (name == "auto" && device.is_cpu())) return at::kFloat;
  if (name != "auto" && name != "bfloat16")
    fail(ErrorCode::INVALID_ARGUMENT, "dtype: expected auto, float32 or bfloat16, got '", name, "'");
  if (device.is_cpu() && !cpu_bfloat16()) {
    fail(ErrorCode::UNSUPPORTED_DEVICE,
         "dtype bfloat16: this CPU has neither AVX512-BF16 nor AMX, where bfloat16 products are 3 to 80 times slower "
         "than float32; use float32");
  }
  return at::kBFloat16;
}

// Whether any weight or adapter of a layer requires a gradient.
bool is_trained(const LayerWeights& w) {
  const auto trained = [](const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); };
  for (const Linear* linear : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) {
    if (trained(linear->weight) || trained(linear->bias)) return true;
    if (linear->lora && (trained(linear->lora->a) || trained(linear->lora->b))) return true;
  }
  return trained(w.input_norm) || trained(w.post_attention_norm) || trained(w.q_norm) || trained(w.k_norm);
}

}  // namespace

template <typename M, typename Use>
void Model::each_weight(M& model, const Use& use) {
  const ModelConfig& config = model.config_;
  const auto use_linear = [&](const std::string& name, auto& linear, bool bias) {
    use(name + ".weight", linear.weight);
    if (bias) use(name + ".bias", linear.bias);
  };
  use("model.embed_tokens.weight", model.embedding_);
  use("model.norm.weight", model.final_norm_);
  if (!config.tie_word_embeddings) use("lm_head.weight", model.head_.weight);
  for (size_t i = 0; i < model.layers_.size(); ++i) {
    auto& w = model.layers_[i];
    const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.",
                      mlp = layer + "mlp.";
    use(layer + "input_layernorm.weight", w.input_norm);
    use(layer + "post_attention_layernorm.weight", w.post_attention_norm);
    use_linear(attention + "q_proj", w.q, config.qkv_bias);
    use_linear(attention + "k_proj", w.k, config.qkv_bias);
    use_linear(attention + "v_proj", w.v, config.qkv_bias);
    use_linear(attention + "o_proj", w.o, config.o_bias);
    if (config.qk_norm) {
      use(attention + "q_norm.weight", w.q_norm);
      use(attention + "k_norm.weight", w.k_norm);
    }
    use_linear(mlp + "gate_proj", w.gate, config.mlp_bias);
    use_linear(mlp + "up_proj", w.up, config.mlp_bias);
    use_linear(mlp + "down_proj", w.down, config.mlp_bias);
  }
}

std::unique_ptr<Model> Model::load(const ModelOptions& options) {
  const at::Device device = resolve_device(options.device);
  const at::ScalarType dtype = resolve_dtype(options.dtype, device);
  auto model = std::make_unique<Model>();
  model->config_ = read_model_config(options.directory);
  model->source_ = options.directory;
  const ModelConfig& config = model->config_;
  TensorMap weights = options.init_seed ? init_weights(config, *options.init_seed, dtype)
                                        : load_weights(options.directory, config, dtype);
  model->layers_.resize(config.num_layers);
  model->each_weight(*model, [&](const std::string& name, at::Tensor& tensor) {
    const auto found = weights.find(name);
    if (found == weights.end())
      fail(ErrorCode::CHECKPOINT_INVALID, options.directory.string(), ": tensor ", name, " is missing");
    tensor = found->second.to(device);
  });
  if (config.tie_word_embeddings) model->head_.weight = model->embedding_;
  const RopeTable rope = rope_table(config);
  model->inv_freq_ = at::tensor(rope.inv_freq, at::kFloat).to(device);
  model->rope_scaling_ = rope.attention_scaling;
  return model;
}

at::Device Model::device() const {
  return embedding_.device();
}
at::ScalarType Model::dtype() const {
  return embedding_.scalar_type();
}

TensorMap Model::weights() const {
  TensorMap map;
  each_weight(*this, [&](const std::string& name, const at::Tensor& tensor) { map.emplace(name, tensor); });
  return map;
}

int64_t Model::num_parameters() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : weights()) count += tensor.numel();
  return count;
}

void Model::save(const std::filesystem::path& directory) const {
  TensorMap host;
  for (const auto& [name, tensor] : weights()) host.emplace(name, tensor.detach().to(at::kCPU));
  save_checkpoint(directory, source_, config_, host);
}

at::Tensor Model::apply(const Linear& linear, const LinearInput& x) const {
  at::Tensor y = stepward::linear(x, linear.weight, linear.bias);
  if (linear.lora && adapters_on())
    y = y + stepward::linear(stepward::linear(x, linear.lora->a), linear.lora->b) * linear.lora->scale;
  return y;
}

at::Tensor Model::layer(int64_t i, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        const Attention& attention) const {
  const LayerWeights& w = layers_[i];
  const int64_t count = x.size(0), head_dim = config_.head_dim;
  const double eps = config_.rms_norm_eps;
  const LinearInput a = normed_input(x, w.input_norm, eps);
  at::Tensor q = apply(w.q, a).view({count, config_.num_heads, head_dim});
  at::Tensor k = apply(w.k, a).view({count, config_.num_kv_heads, head_dim});
  const at::Tensor v = apply(w.v, a).view({count, config_.num_kv_heads, head_dim});
  if (config_.qk_norm) {
    q = rms_norm(q, w.q_norm, eps);
    k = rms_norm(k, w.k_norm, eps);
  }
  const at::Tensor h = x + apply(w.o, attention(i, rotate(q, cos, sin), rotate(k, cos, sin), v));
  const LinearInput m = normed_input(h, w.post_attention_norm, eps);
  return h + mlp(w, m);
}

at::Tensor Model::mlp(const LayerWeights& w, const LinearInput& x) const {
  if (has_own_kernels(x.value) && has_plain_mlp(w)) return gated_mlp(x, w.gate.weight, w.up.weight, w.down.weight);
  return apply(w.down, gated_input(apply(w.gate, x), apply(w.up, x)));
}

at::Tensor Model::forward(const at::Tensor& tokens, const at::Tensor& positions, const Attention& attention) const {
  // Angles in float32 whatever the model's dtype, as transformers does: bf16 positions above 256 would collide.
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inv_freq_.unsqueeze(0);
  const at::Tensor cos = (angles.cos() * rope_scaling_).to(dtype()).unsqueeze(1);
  const at::Tensor sin = (angles.sin() * rope_scaling_).to(dtype()).unsqueeze(1);

  // [T, hidden]. Its gradient has the rows of the tokens alone: as a whole it is as large as the table and mostly
  // zeros. It is added to a tied head's, which only our own kernels' dtype does without a loss: elsewhere every row is
  // rounded by itself, on a GPU in any order.
  const bool rows_alone = !config_.tie_word_embeddings || has_own_kernels(embedding_);
  at::Tensor x = at::embedding(embedding_, tokens, /*padding_idx=*/-1, /*scale_grad_by_freq=*/false, rows_alone);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const auto run = [this, i, cos, sin, attention](const at::Tensor& input) {
      return layer(i, input, cos, sin, attention);
    };
    // Below the lowest weight that is trained nothing is kept anyway, and there is no gradient to run again for.
    const bool has_gradient = at::GradMode::is_enabled() && (x.requires_grad() || is_trained(layers_[i]));
    x = checkpoint_layers_ && has_gradient ? checkpoint(run, x) : run(x);
  }
  return rms_norm(x, final_norm_, config_.rms_norm_eps);
}

at::Tensor Model::forward(const Forest& forest, const PackedForest& packed) const {
  const at::Tensor tokens = index_tensor(forest.tokens, device()), positions = index_tensor(packed.position, device());
  // What attention needs is owned by it: with checkpoints it runs again during the backward pass.
  if (has_own_kernels(embedding_)) {
    const auto plan = std::make_shared<const kernels::AttentionPlan>(plan_attention(forest, packed));
    return forward(tokens, positions,
                   [this, plan](int64_t i, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                     return tree_attention(plan, q, k, v, config_.window[i]);
                   });
  }
  if (has_varlen_attention(embedding_, config_.head_dim)) {
    const VarlenAttention varlen(plan_attention(forest, packed), device());
    return forward(tokens, positions,
                   [this, varlen](int64_t i, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                     return varlen(q, k, v, config_.window[i]);
                   });
  }
  const auto masked = std::make_shared<const ForestAttention>(forest, packed, config_, device(), dtype());
  return forward(tokens, positions, [masked](int64_t i, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return (*masked)(i, q, k, v);
  });
}

}  // namespace stepward
