// The format as PEFT 0.21 writes it: tensors "base_model.model.<module>.lora_A.weight" [rank, in] and lora_B [out,
// rank]. What the adapter computes is lora.cpp's.
#include "core/peft.h"

#include <algorithm>
#include <array>
#include <optional>

#include <ATen/TensorOperators.h>

#include "core/json_fields.h"
#include "core/lora.h"
#include "core/pending_file.h"
#include "core/safetensors_write.h"
#include "core/weights_hash.h"
#include "stepward/error.h"

namespace stepward {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kTensorsName = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr const char* kBaseKey = "stepward_base";

// Parts of PEFT that change what an adapter computes. Absent, null, false and empty mean that one is not used.
constexpr std::array kUnsupported{"use_dora",
                                  "lora_bias",
                                  "fan_in_fan_out",
                                  "modules_to_save",
                                  "layer_replication",
                                  "target_parameters",
                                  "trainable_token_indices",
                                  "use_qalora",
                                  "alora_invocation_tokens",
                                  "velora_config",
                                  "monteclora_config",
                                  "use_bdlora",
                                  "arrow_config",
                                  "kasa_config"};

bool is_used(const Json* value) {
  if (value == nullptr || (value->is_boolean() && !value->get<bool>())) return false;
  return !((value->is_array() || value->is_object() || value->is_string()) && value->empty());
}

struct Config {
  LoraOptions options;
  bool listed = false;  // the targets alone say which modules carry an adapter; else the tensors do
};

template <typename T>
std::vector<std::pair<std::string, T>> read_pattern(const JsonFields& fields, const char* key) {
  std::vector<std::pair<std::string, T>> pattern;
  const Json* found = fields.find(key);
  if (found == nullptr) return pattern;
  if (!found->is_object()) fields.bad(key, "an object of numbers");
  for (const auto& [name, value] : found->items()) {
    if (!value.is_number()) fields.bad(key, "an object of numbers");
    pattern.emplace_back(name, value.template get<T>());
  }
  return pattern;
}

Config read_config(const fs::path& folder) {
  const fs::path file = folder / kConfigName;
  const Json json = parse_json_object(read_text_file(file), file);
  const JsonFields fields(json, file.string());
  const auto unsupported = [&](const std::string& what) {
    fail(ErrorCode::UNSUPPORTED_MODEL, file.string(), ": ", what, " is not supported");
  };
  if (const std::string type = fields.string("peft_type", "LORA"); type != "LORA") unsupported("peft_type " + type);
  if (const std::string task = fields.string("task_type", "CAUSAL_LM"); task != "CAUSAL_LM")
    unsupported("task_type " + task);
  if (const std::string bias = fields.string("bias", "none"); bias != "none") unsupported("bias " + bias);
  for (const char* key : kUnsupported) {
    if (is_used(fields.find(key))) unsupported(key);
  }
  // Other ways to start change the base weights as well, which the adapter's files do not hold.
  if (const Json* start = fields.find("init_lora_weights"); start != nullptr && start->is_string()) {
    const std::string name = start->get<std::string>();
    if (name != "gaussian" && name != "eva" && name != "orthogonal") unsupported("init_lora_weights " + name);
  }

  Config config;
  LoraOptions& options = config.options;
  options.rank = fields.integer("r", 1, int64_t{1} << 20);
  options.alpha = fields.number("lora_alpha");
  options.rslora = fields.boolean("use_rslora", false);
  options.rank_pattern = read_pattern<int64_t>(fields, "rank_pattern");
  options.alpha_pattern = read_pattern<double>(fields, "alpha_pattern");
  const Json* targets = fields.find("target_modules");
  if (targets == nullptr) fields.missing("target_modules");
  config.listed = !is_used(fields.find("exclude_modules")) && !is_used(fields.find("layers_to_transform"));
  if (targets->is_string()) {
    config.listed &= *targets == "all-linear";
    options.targets = expanded_targets({targets->get<std::string>()});
  } else if (targets->is_array()) {
    for (const Json& target : *targets) {
      if (!target.is_string()) fields.bad("target_modules", "a list of names or a string");
      options.targets.push_back(target.get<std::string>());
    }
  } else {
    fields.bad("target_modules", "a list of names or a string");
  }
  return config;
}

TensorMap read_tensors(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder / kTensorsName, error) && fs::exists(folder / "adapter_model.bin", error)) {
    fail(ErrorCode::CHECKPOINT_INVALID, folder.string(),
         ": there is only adapter_model.bin, a pickle, which is never read; save the adapter as safetensors");
  }
  return read_safetensors(folder / kTensorsName);
}

// "<module>.lora_A.weight" of "base_model.model.<module>.lora_A.default.weight"; nothing for other tensors.
std::optional<std::string> parameter_name(const std::string& tensor) {
  if (!tensor.starts_with(kPrefix)) return std::nullopt;
  for (const std::string part : {".lora_A", ".lora_B"}) {
    for (const std::string adapter : {".weight", ".default.weight"}) {
      if (tensor.ends_with(part + adapter)) {
        return tensor.substr(kPrefix.size(), tensor.size() - kPrefix.size() - (part + adapter).size()) + part +
               ".weight";
      }
    }
  }
  return std::nullopt;
}

// PEFT keeps copies of the embedding and the head where one of them has an adapter: they must be the base's own.
void check_copy(const Model& model, const fs::path& folder, const std::string& tensor, const at::Tensor& values) {
  std::string name = tensor.starts_with(kPrefix) ? tensor.substr(kPrefix.size()) : tensor;
  if (const size_t at = name.find(".base_layer."); at != std::string::npos) name.erase(at, 11);
  if (name.find("lora_embedding_") != std::string::npos || name.find("embed_tokens.lora_") != std::string::npos)
    fail(ErrorCode::UNSUPPORTED_MODEL, folder.string(), ": LoRA on embed_tokens is not supported (", tensor, ")");
  const TensorMap weights = model.weights();
  const auto found = weights.find(name);
  if (found == weights.end()) {
    fail(ErrorCode::UNSUPPORTED_MODEL, folder.string(),
         ": expected lora_A and lora_B of linear layers, got the tensor ", tensor);
  }
  const at::Tensor base = found->second.detach().cpu();
  if (values.sizes() != base.sizes() || !values.to(base.scalar_type()).equal(base)) {
    fail(ErrorCode::CHECKPOINT_INVALID, folder.string(), ": the adapter is for another base: its copy of ", name,
         " has other values");
  }
}

[[noreturn]] void no_such_module(const Model& model, const fs::path& folder, const std::string& module) {
  if (module == "lm_head") {
    fail(ErrorCode::UNSUPPORTED_MODEL, folder.string(),
         ": LoRA on lm_head is not supported where the head is the embedding");
  }
  if (module.ends_with("embed_tokens"))
    fail(ErrorCode::UNSUPPORTED_MODEL, folder.string(), ": LoRA on embed_tokens is not supported");
  fail(ErrorCode::CHECKPOINT_INVALID, folder.string(), ": the adapter is for another base: it has ", module,
       ", this model has ", model.config().num_layers, " layers of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj ",
       "and down_proj");
}

void check_shape(const fs::path& folder, const std::string& module, const Linear& linear, int64_t rank,
                 const at::Tensor& a, const at::Tensor& b) {
  const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
  const std::vector<int64_t> expected_a{rank, in}, expected_b{out, rank};
  if (a.sizes() == expected_a && b.sizes() == expected_b) return;
  const bool other_base = a.dim() == 2 && b.dim() == 2 && (a.size(1) != in || b.size(0) != out);
  fail(ErrorCode::CHECKPOINT_INVALID, folder.string(), other_base ? ": the adapter is for another base: " : ": ",
       module, " [", out, ", ", in, "] of rank ", rank, " takes lora_A [", rank, ", ", in, "] and lora_B [", out, ", ",
       rank, "], got ", a.sizes(), " and ", b.sizes());
}

LoraOptions load(Model& model, const fs::path& folder, bool allow_other_base) {
  Config config = read_config(folder);
  TensorMap values;
  for (const auto& [tensor, value] : read_tensors(folder)) {
    if (const auto name = parameter_name(tensor))
      values.emplace(*name, value);
    else
      check_copy(model, folder, tensor, value);
  }
  std::vector<std::string> modules;
  const auto take = [&](const std::string& name) {
    const auto found = values.find(name);
    if (found == values.end())
      fail(ErrorCode::CHECKPOINT_INVALID, folder.string(), ": the tensor of ", name, " is missing");
    const at::Tensor value = found->second;
    values.erase(found);
    return value;
  };
  each_linear(model, [&](const std::string& module, Linear& linear) {
    const auto wants = [&](const std::string& target) { return is_target(module, target); };
    const std::string a_name = module + ".lora_A.weight", b_name = module + ".lora_B.weight";
    const bool expected =
        config.listed && std::any_of(config.options.targets.begin(), config.options.targets.end(), wants);
    if (!expected && !values.contains(a_name) && !values.contains(b_name)) return;
    const at::Tensor a = take(a_name), b = take(b_name);
    const auto [rank, scale] = adapter_shape(config.options, module);
    check_shape(folder, module, linear, rank, a, b);
    const auto like = linear.weight.detach().options();
    linear.lora = LoraPair{a.to(like, /*non_blocking=*/false, /*copy=*/true),
                           b.to(like, /*non_blocking=*/false, /*copy=*/true), scale};
    modules.push_back(module);
  });
  if (!values.empty()) {
    const std::string& name = values.begin()->first;
    no_such_module(model, folder, name.substr(0, name.find(".lora_")));
  }
  if (modules.empty()) fail(ErrorCode::CHECKPOINT_INVALID, folder.string(), ": the adapter has no tensors");
  const auto metadata = read_safetensors_metadata(folder / kTensorsName);
  if (const auto base = metadata.find(kBaseKey); base != metadata.end() && !allow_other_base) {
    const std::string own = base_fingerprint(model);
    if (base->second != own) {
      fail(ErrorCode::CHECKPOINT_INVALID, folder.string(),
           ": the adapter is for another base: it was trained on weights ", base->second, ", these are ", own,
           " (--allow-other-base takes it all the same)");
    }
  }
  if (!config.listed) config.options.targets = modules;
  return config.options;
}

void save(const Model& model, const LoraOptions& options, const fs::path& folder, const std::string& base_model,
          const std::string& fingerprint) {
  TensorMap tensors;
  each_linear(model, [&](const std::string& name, const Linear& linear) {
    if (!linear.lora) return;
    tensors[std::string(kPrefix) + name + ".lora_A.weight"] = linear.lora->a.detach().to(at::kCPU);
    tensors[std::string(kPrefix) + name + ".lora_B.weight"] = linear.lora->b.detach().to(at::kCPU);
  });
  Json ranks = Json::object(), alphas = Json::object();
  for (const auto& [pattern, rank] : options.rank_pattern) ranks[pattern] = rank;
  for (const auto& [pattern, alpha] : options.alpha_pattern) alphas[pattern] = alpha;
  const Json config = {{"peft_type", "LORA"},
                       {"task_type", "CAUSAL_LM"},
                       {"base_model_name_or_path", base_model},
                       {"r", options.rank},
                       {"lora_alpha", options.alpha},
                       {"use_rslora", options.rslora},
                       {"rank_pattern", ranks},
                       {"alpha_pattern", alphas},
                       {"lora_dropout", 0.0},
                       {"bias", "none"},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"init_lora_weights", true},
                       {"modules_to_save", nullptr},
                       {"target_modules", expanded_targets(options.targets)}};
  fs::create_directories(folder);
  PendingFile tensors_file(folder / kTensorsName), config_file(folder / kConfigName);
  write_safetensors_into(tensors_file, tensors, {{"format", "pt"}, {kBaseKey, fingerprint}});
  config_file.write(config.dump(2) + "\n");
  config_file.finish();
  tensors_file.publish();
  config_file.publish();
}

}  // namespace

LoraOptions load_lora(Model& model, const fs::path& folder, bool allow_other_base) {
  try {
    return load(model, folder, allow_other_base);
  } catch (...) {
    remove_lora(model);
    throw;
  }
}

TensorMap read_adapter_values(const fs::path& folder) {
  TensorMap values;
  for (const auto& [tensor, value] : read_tensors(folder)) {
    if (const auto name = parameter_name(tensor)) values.emplace(*name, value);
  }
  return values;
}

void save_lora(const Model& model, const LoraOptions& options, const fs::path& folder, const std::string& base_model,
               const std::string& fingerprint) {
  try {
    save(model, options, folder, base_model, fingerprint);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::IO_ERROR, "saving the adapter to ", folder.string(), ": ", error.what());
  }
}

std::string base_fingerprint(const Model& model) {
  return weights_hash(model.weights(), at::kBFloat16);
}

}  // namespace stepward
