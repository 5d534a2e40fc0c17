// Small random models and forests for the core's tests.
#pragma once

#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include "core/tensors.h"
#include "helpers/temp_dir.h"
#include "stepward/forest.h"
#include "stepward/model.h"
#include "stepward/score.h"

namespace stepward::testing {

// Two layers, hidden 32, 4 heads over 2 KV heads, vocabulary 61; `extra` adds or replaces keys: "\"sliding_window\":
// 6".
inline std::unique_ptr<Model> tiny_model(const std::string& family = "llama", const std::string& extra = "",
                                         uint64_t seed = 1, const std::string& device = "cpu",
                                         const std::string& dtype = "float32") {
  const TempDir folder;
  const std::string architecture = family == "llama"     ? "Llama"
                                   : family == "mistral" ? "Mistral"
                                   : family == "qwen2"   ? "Qwen2"
                                                         : "Qwen3";
  std::ofstream(folder.path() / "config.json")
      << "{\"model_type\": \"" << family << "\", \"architectures\": [\"" << architecture
      << "ForCausalLM\"], \"vocab_size\": 61, \"hidden_size\": 32,"
      << "\"intermediate_size\": 48, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
         "\"head_dim\": 8,"
      << "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
         "\"initializer_range\": 0.2,"
      << "\"tie_word_embeddings\": false, \"torch_dtype\": \"float32\"" << (extra.empty() ? "" : ", ") << extra << "}";
  ModelOptions options;
  options.directory = folder.path();
  options.device = device;
  options.dtype = dtype;
  options.init_seed = seed;
  return Model::load(options);
}

// A weight's gradient as a whole, zeros where it has none: an embedding's holds only some rows.
inline at::Tensor gradient_of(const at::Tensor& weight) {
  const at::Tensor& gradient = weight.grad();
  if (!gradient.defined()) return at::zeros_like(weight);
  return gradient.is_sparse() ? gradient.to_dense() : gradient.clone();
}

// One tree at random: `segments` segments of 0 to 5 tokens (the root has at least one), any segment may be a parent.
inline Forest random_forest(std::mt19937& random, int trees, int segments, int vocab = 61) {
  Forest forest;
  forest.offsets.push_back(0);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  for (int t = 0; t < trees; ++t) {
    const int root = static_cast<int>(forest.num_segments());
    for (int s = 0; s < segments; ++s) {
      forest.parents.push_back(s == 0 ? -1 : root + below(s));
      const int length = s == 0 ? 1 + below(5) : below(6);
      for (int i = 0; i < length; ++i) forest.tokens.push_back(below(vocab));
      forest.offsets.push_back(static_cast<int32_t>(forest.tokens.size()));
    }
  }
  return forest;
}

// A long trunk in pieces with branches off its middle, an empty root, and small random trees.
inline Forest mixed_forest(uint32_t seed) {
  std::mt19937 random(seed);
  Forest forest = random_forest(random, 2, 6);
  const auto add = [&](int32_t parent, int length) {
    for (int i = 0; i < length; ++i) forest.tokens.push_back(static_cast<int32_t>(random() % 61));
    forest.offsets.push_back(static_cast<int32_t>(forest.tokens.size()));
    forest.parents.push_back(parent);
    return static_cast<int32_t>(forest.parents.size()) - 1;
  };
  const int32_t root = add(-1, 0), first = add(root, 40), second = add(first, 300), third = add(second, 33);
  add(second, 20);
  add(first, 70);
  add(third, 1);
  add(root, 5);
  return forest;
}

// A forest of one chain.
inline Forest chain(const std::vector<int32_t>& tokens) {
  Forest forest;
  forest.tokens = tokens;
  forest.offsets = {0, static_cast<int32_t>(tokens.size())};
  forest.parents = {-1};
  return forest;
}

// The tokens on the path to a segment.
inline std::vector<int32_t> path_tokens(const Forest& forest, int32_t segment) {
  std::vector<int32_t> tokens;
  for (int32_t s : path_to(forest, segment)) {
    tokens.insert(tokens.end(), forest.tokens.begin() + forest.offsets[s],
                  forest.tokens.begin() + forest.offsets[s + 1]);
  }
  return tokens;
}

// Log-probs of the marked segments' tokens by the differentiable forward pass over the whole forest: the twin of the
// rollout engine. [T], NaN where a token has none.
inline std::vector<float> forward_logprobs(const Model& model, const Forest& forest,
                                           const std::vector<uint8_t>& scored) {
  at::NoGradGuard no_grad;
  std::vector<float> logprobs(forest.tokens.size(), std::numeric_limits<float>::quiet_NaN());
  const ForestLogprobs result = forest_logprobs(model, forest, scored);
  const std::vector<float> values = to_floats(result.values);
  for (size_t i = 0; i < values.size(); ++i) logprobs[result.tokens[i]] = values[i];
  return logprobs;
}

}  // namespace stepward::testing
