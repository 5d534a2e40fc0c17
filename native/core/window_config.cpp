// Sliding windows of config.json, per layer. Applying them is left to attention.
#include <vector>

#include "config_parts.h"
#include "stepward/error.h"

namespace stepward {

namespace {

int64_t sliding_window(const JsonFields& config, int64_t fallback) {
  // Present and null says "none"; absent says the family's default.
  if (!config.contains("sliding_window")) return fallback;
  return config.find("sliding_window") == nullptr ? 0 : config.integer("sliding_window", 1, max_position_limit);
}

// Qwen: sliding layers come from layer_types where given, else they are those from max_window_layers on.
std::vector<int64_t> qwen_windows(const JsonFields& config, int64_t num_layers) {
  const int64_t width = config.boolean("use_sliding_window", false) ? sliding_window(config, 4096) : 0;
  const int64_t first = config.integer("max_window_layers", 0, max_extent, 28);
  std::vector<int64_t> windows(num_layers, 0);
  const Json* types = config.find("layer_types");
  if (types == nullptr) {
    for (int64_t i = first; i < num_layers; ++i) windows[i] = width;
    return windows;
  }
  if (!types->is_array() || static_cast<int64_t>(types->size()) != num_layers) {
    config.bad("layer_types", "a list with one entry for each of " + std::to_string(num_layers) + " layers");
  }
  for (int64_t i = 0; i < num_layers; ++i) {
    const Json& type = (*types)[static_cast<size_t>(i)];
    if (type == "full_attention") continue;
    if (type != "sliding_attention") {
      fail(ErrorCode::UNSUPPORTED_MODEL, config.place(), ": layer_types[", i, "] ", type.dump(),
           " is not supported, only full_attention and sliding_attention");
    }
    if (width == 0) {
      fail(ErrorCode::CHECKPOINT_INVALID, config.place(), ": layer_types[", i,
           "] is sliding_attention, but use_sliding_window is false or sliding_window is null");
    }
    windows[i] = width;
  }
  return windows;
}

}  // namespace

std::vector<int64_t> read_windows(const JsonFields& config, Family family, int64_t num_layers) {
  switch (family) {
    case Family::llama:
      return std::vector<int64_t>(num_layers, 0);
    case Family::mistral:
      return std::vector<int64_t>(num_layers, sliding_window(config, 4096));
    case Family::qwen2:
    case Family::qwen3:
      return qwen_windows(config, num_layers);
  }
  return {};
}

}  // namespace stepward
