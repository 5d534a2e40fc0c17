#include "core/freeze.h"

#include <fnmatch.h>

#include "stepward/error.h"

namespace stepward {

std::vector<Parameter> trainable_weights(const Model& model, const std::vector<std::string>& freeze) {
  std::vector<bool> used(freeze.size(), false);
  std::vector<Parameter> parameters;
  for (const auto& [name, tensor] : model.weights()) {
    bool frozen = false;
    for (size_t i = 0; i < freeze.size(); ++i) {
      if (::fnmatch(freeze[i].c_str(), name.c_str(), FNM_NOESCAPE) != 0) continue;
      frozen = true;
      used[i] = true;
    }
    if (!frozen) parameters.push_back({name, tensor});
  }
  for (size_t i = 0; i < freeze.size(); ++i) {
    if (used[i]) continue;
    const bool tied_head = model.config().tie_word_embeddings && ::fnmatch(freeze[i].c_str(), "lm_head.weight", 0) == 0;
    fail(ErrorCode::INVALID_ARGUMENT, "freeze: expected patterns of weight names like model.embed_tokens.* or ",
         "model.layers.0.*, got '", freeze[i], "', which matches none",
         tied_head ? " (the head of this model is model.embed_tokens.weight)" : "");
  }
  if (parameters.empty())
    fail(ErrorCode::INVALID_ARGUMENT, "freeze: expected a weight to be left to train, all are frozen");
  return parameters;
}

}  // namespace stepward
