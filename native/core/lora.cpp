#include "core/lora.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <regex>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "stepward/error.h"

namespace stepward {
namespace {

struct Place {
  const char* name;
  const char* block;
  Linear LayerWeights::* linear;
};

constexpr Place kPlaces[] = {{"q_proj", "self_attn", &LayerWeights::q}, {"k_proj", "self_attn", &LayerWeights::k},
                             {"v_proj", "self_attn", &LayerWeights::v}, {"o_proj", "self_attn", &LayerWeights::o},
                             {"gate_proj", "mlp", &LayerWeights::gate}, {"up_proj", "mlp", &LayerWeights::up},
                             {"down_proj", "mlp", &LayerWeights::down}};

// M is Model or const Model.
template <typename M, typename Use>
void visit(M& model, const Use& use) {
  auto& layers = model.layers();
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const Place& place : kPlaces) {
      use("model.layers." + std::to_string(i) + "." + place.block + "." + place.name, layers[i].*place.linear);
    }
  }
  if (!model.config().tie_word_embeddings) use("lm_head", model.head_linear());
}

// PEFT's get_pattern_key: the first pattern that is the module's name or its end after a dot.
template <typename T>
T pattern_value(const std::vector<std::pair<std::string, T>>& patterns, const std::string& module, T otherwise) {
  for (const auto& [pattern, value] : patterns) {
    try {
      if (std::regex_match(module, std::regex("(.*\\.)?(" + pattern + ")"))) return value;
    } catch (const std::regex_error&) {
      fail(ErrorCode::INVALID_ARGUMENT, "LoRA pattern '", pattern, "': expected a regular expression");
    }
  }
  return otherwise;
}

[[noreturn]] void no_such_target(const Model& model, const std::string& target) {
  if (target == "lm_head")
    fail(ErrorCode::INVALID_ARGUMENT, "lora.targets: lm_head of this model is its embedding, which takes no adapter");
  fail(ErrorCode::INVALID_ARGUMENT,
       "lora.targets: expected all-linear, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head or "
       "the name of one layer of them (layers.0.self_attn.q_proj), got '",
       target, "'");
}

void check(const LoraOptions& options) {
  if (options.rank < 1) fail(ErrorCode::INVALID_ARGUMENT, "lora.rank: expected at least 1, got ", options.rank);
  if (!(options.alpha > 0)) fail(ErrorCode::INVALID_ARGUMENT, "lora.alpha: expected a number > 0, got ", options.alpha);
  if (options.targets.empty()) fail(ErrorCode::INVALID_ARGUMENT, "lora.targets: expected at least one layer name");
}

}  // namespace

void each_linear(Model& model, const std::function<void(const std::string&, Linear&)>& use) {
  visit(model, use);
}

void each_linear(const Model& model, const std::function<void(const std::string&, const Linear&)>& use) {
  visit(model, use);
}

bool is_target(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

std::vector<std::string> expanded_targets(const std::vector<std::string>& targets) {
  std::vector<std::string> all;
  for (const std::string& target : targets) {
    if (target == "all-linear") {
      for (const Place& place : kPlaces) all.push_back(place.name);
    } else {
      all.push_back(target);
    }
  }
  return all;
}

AdapterShape adapter_shape(const LoraOptions& options, const std::string& module) {
  const int64_t rank = pattern_value(options.rank_pattern, module, options.rank);
  const double alpha = pattern_value(options.alpha_pattern, module, options.alpha);
  if (rank < 1) fail(ErrorCode::INVALID_ARGUMENT, "LoRA on ", module, ": expected a rank of at least 1, got ", rank);
  const double divisor = options.rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank);
  return {rank, alpha / divisor};
}

void add_lora(Model& model, const LoraOptions& options) {
  check(options);
  std::mt19937_64 random(options.seed);
  for (const std::string& target : expanded_targets(options.targets)) {
    bool found = false;
    each_linear(model, [&](const std::string& name, Linear& linear) {
      if (!is_target(name, target)) return;
      found = true;
      const auto [rank, scale] = adapter_shape(options, name);
      const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
      at::Tensor a = at::empty({rank, in}, at::kFloat);
      const double bound = 1.0 / std::sqrt(static_cast<double>(in));
      float* data = a.data_ptr<float>();
      // 53 random bits to [0, 1): std::uniform_real_distribution differs between standard libraries.
      for (int64_t i = 0; i < a.numel(); ++i)
        data[i] = static_cast<float>((static_cast<double>(random() >> 11) * 0x1p-53 * 2 - 1) * bound);
      const auto like = linear.weight.detach().options();
      linear.lora = LoraPair{a.to(like), at::zeros({out, rank}, like), scale};
    });
    if (!found) no_such_target(model, target);
  }
}

void remove_lora(Model& model) {
  each_linear(model, [](const std::string&, Linear& linear) { linear.lora.reset(); });
}

std::vector<Parameter> lora_parameters(Model& model) {
  std::vector<Parameter> parameters;
  each_linear(model, [&](const std::string& name, Linear& linear) {
    if (!linear.lora) return;
    parameters.push_back({name + ".lora_A.weight", linear.lora->a});
    parameters.push_back({name + ".lora_B.weight", linear.lora->b});
  });
  return parameters;
}

void merge_lora(Model& model) {
  at::NoGradGuard no_grad;
  each_linear(model, [](const std::string&, Linear& linear) {
    if (linear.lora) linear.weight.copy_(merged_weight(linear));
  });
  remove_lora(model);
}

at::Tensor merged_weight(const Linear& linear) {
  if (!linear.lora) return linear.weight.detach();
  const at::Tensor delta = at::mm(linear.lora->b.detach().to(at::kFloat), linear.lora->a.detach().to(at::kFloat));
  return (linear.weight.detach().to(at::kFloat) + delta * linear.lora->scale).to(linear.weight.scalar_type());
}

}  // namespace stepward
