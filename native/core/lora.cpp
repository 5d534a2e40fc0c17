#include "core/lora.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include "stepward/error.h"

namespace stepward {
namespace {

struct Target {
  const char* name;
  const char* block;
  Linear LayerWeights::* linear;
};

constexpr Target kTargets[] = {{"q_proj", "self_attn", &LayerWeights::q}, {"k_proj", "self_attn", &LayerWeights::k},
                               {"v_proj", "self_attn", &LayerWeights::v}, {"o_proj", "self_attn", &LayerWeights::o},
                               {"gate_proj", "mlp", &LayerWeights::gate}, {"up_proj", "mlp", &LayerWeights::up},
                               {"down_proj", "mlp", &LayerWeights::down}};

// Calls use(name, linear) for every layer that carries an adapter, with its module name.
template <typename M, typename Use>
void each_adapter(M& model, const Use& use) {
  auto& layers = model.layers();
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const Target& target : kTargets) {
      auto& linear = layers[i].*target.linear;
      if (linear.lora) use("model.layers." + std::to_string(i) + "." + target.block + "." + target.name, linear);
    }
  }
}

}  // namespace

std::vector<Parameter> add_lora(Model& model, const LoraOptions& options) {
  if (options.rank < 1) fail(ErrorCode::INVALID_ARGUMENT, "lora.rank: expected at least 1, got ", options.rank);
  if (!(options.alpha > 0)) fail(ErrorCode::INVALID_ARGUMENT, "lora.alpha: expected a number > 0, got ", options.alpha);
  if (options.targets.empty()) fail(ErrorCode::INVALID_ARGUMENT, "lora.targets: expected at least one layer name");
  std::mt19937_64 random(options.seed);
  for (const std::string& wanted : options.targets) {
    const auto target =
        std::find_if(std::begin(kTargets), std::end(kTargets), [&](const Target& t) { return wanted == t.name; });
    if (target == std::end(kTargets)) {
      fail(ErrorCode::INVALID_ARGUMENT,
           "lora.targets: expected q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj, got '", wanted,
           "'");
    }
    for (LayerWeights& layer : model.layers()) {
      Linear& linear = layer.*target->linear;
      const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
      at::Tensor a = at::empty({options.rank, in}, at::kFloat);
      const double bound = 1.0 / std::sqrt(static_cast<double>(in));
      float* data = a.data_ptr<float>();
      // 53 random bits to [0, 1): std::uniform_real_distribution differs between standard libraries.
      for (int64_t i = 0; i < a.numel(); ++i)
        data[i] = static_cast<float>((static_cast<double>(random() >> 11) * 0x1p-53 * 2 - 1) * bound);
      linear.lora = LoraPair{a.to(linear.weight.options()), at::zeros({out, options.rank}, linear.weight.options()),
                             options.alpha / static_cast<double>(options.rank)};
    }
  }
  std::vector<Parameter> parameters;
  each_adapter(model, [&](const std::string& name, Linear& linear) {
    parameters.push_back({name + ".lora_A.weight", linear.lora->a});
    parameters.push_back({name + ".lora_B.weight", linear.lora->b});
  });
  return parameters;
}

void remove_lora(Model& model) {
  each_adapter(model, [](const std::string&, Linear& linear) { linear.lora.reset(); });
}

void merge_lora(Model& model) {
  at::NoGradGuard no_grad;
  each_adapter(model, [](const std::string&, Linear& linear) {
    linear.weight.add_(at::mm(linear.lora->b, linear.lora->a), linear.lora->scale);
  });
  remove_lora(model);
}

at::Tensor merged_weight(const Linear& linear) {
  if (!linear.lora) return linear.weight.detach();
  const at::Tensor delta = at::mm(linear.lora->b.detach().to(at::kFloat), linear.lora->a.detach().to(at::kFloat));
  return (linear.weight.detach().to(at::kFloat) + delta * linear.lora->scale).to(linear.weight.scalar_type());
}

void save_lora(const Model& model, const LoraOptions& options, const std::filesystem::path& directory,
               const std::string& base_model) {
  TensorMap tensors;
  each_adapter(model, [&](const std::string& name, const Linear& linear) {
    tensors["base_model.model." + name + ".lora_A.weight"] = linear.lora->a.detach().to(at::kCPU);
    tensors["base_model.model." + name + ".lora_B.weight"] = linear.lora->b.detach().to(at::kCPU);
  });
  std::filesystem::create_directories(directory);
  write_safetensors(directory / "adapter_model.safetensors", tensors);
  const nlohmann::ordered_json config = {{"peft_type", "LORA"},
                                         {"task_type", "CAUSAL_LM"},
                                         {"base_model_name_or_path", base_model},
                                         {"r", options.rank},
                                         {"lora_alpha", options.alpha},
                                         {"lora_dropout", 0.0},
                                         {"bias", "none"},
                                         {"fan_in_fan_out", false},
                                         {"inference_mode", true},
                                         {"init_lora_weights", true},
                                         {"modules_to_save", nullptr},
                                         {"target_modules", options.targets}};
  std::ofstream file(directory / "adapter_config.json");
  file << config.dump(2) << "\n";
  if (!file.flush()) fail(ErrorCode::IO_ERROR, (directory / "adapter_config.json").string(), ": writing failed");
}

}  // namespace stepward
