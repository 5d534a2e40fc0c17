#include "core/optimizer_state.h"

#include <charconv>
#include <functional>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "stepward/error.h"

namespace stepward {
namespace {

constexpr const char* kFormat = "stepward-optimizer-1";

// Calls use(key, tensor) for everything that is kept of a parameter.
void each_state(const Optimizer::Entry& entry, const std::function<void(const std::string&, const at::Tensor&)>& use) {
  if (entry.exp_avg.defined()) {
    use("exp_avg." + entry.name, entry.exp_avg);
    use("exp_avg_sq." + entry.name, entry.exp_avg_sq);
    use("step." + entry.name, entry.steps);
  }
  if (entry.weight.scalar_type() != at::kFloat) use("master." + entry.name, entry.master);
}

// The shortest text that reads back as the same double.
std::string text_of(double value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

std::map<std::string, std::string> metadata_of(const TrainerOptions& options) {
  return {{"format", kFormat},
          {"optimizer", options.optimizer},
          {"beta1", text_of(options.beta1)},
          {"beta2", text_of(options.beta2)},
          {"eps", text_of(options.eps)},
          {"weight_decay", text_of(options.weight_decay)},
          {"max_grad_norm", text_of(options.max_grad_norm)}};
}

}  // namespace

void write_optimizer_state(Optimizer& optimizer, const std::filesystem::path& file) {
  TensorMap state;
  for (const Optimizer::Entry& entry : optimizer.entries()) {
    each_state(entry, [&](const std::string& key, const at::Tensor& tensor) { state.emplace(key, tensor.detach()); });
  }
  write_safetensors(file, state, metadata_of(optimizer.options()));
}

TensorMap read_optimizer_state(Optimizer& optimizer, const std::filesystem::path& file) {
  TensorMap state = read_safetensors(file);
  const auto metadata = read_safetensors_metadata(file);
  const auto expected = metadata_of(optimizer.options());
  std::vector<const char*> keys{"format", "optimizer"};
  if (optimizer.options().optimizer == "adamw") keys.insert(keys.end(), {"beta1", "beta2"});
  for (const char* key : keys) {
    const auto found = metadata.find(key);
    if (found != metadata.end() && found->second == expected.at(key)) continue;
    fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": expected the state of an optimiser with ", key, " ",
         expected.at(key), ", got ", found == metadata.end() ? "none" : found->second);
  }
  size_t known = 0;
  for (const Optimizer::Entry& entry : optimizer.entries()) {
    each_state(entry, [&](const std::string& key, const at::Tensor& tensor) {
      const auto found = state.find(key);
      if (found == state.end())
        fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": expected a tensor ", key, ", which is missing");
      if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != at::kFloat) {
        fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": expected ", key, " as float32 of shape ", tensor.sizes(),
             ", got ", c10::toString(found->second.scalar_type()), " of shape ", found->second.sizes());
      }
      ++known;
    });
  }
  if (known == state.size()) return state;
  for (const Optimizer::Entry& entry : optimizer.entries()) {
    each_state(entry, [&](const std::string& key, const at::Tensor&) { state.erase(key); });
  }
  fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": expected the state of the parameters that are trained, got ",
       state.begin()->first, ", which is none of them");
}

void set_optimizer_state(Optimizer& optimizer, const TensorMap& state) {
  at::NoGradGuard no_grad;
  for (const Optimizer::Entry& entry : optimizer.entries()) {
    each_state(entry, [&](const std::string& key, const at::Tensor& tensor) { tensor.copy_(state.at(key)); });
    if (entry.weight.scalar_type() != at::kFloat) entry.weight.detach().copy_(entry.master);
  }
}

}  // namespace stepward
