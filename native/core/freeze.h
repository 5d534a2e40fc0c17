// Which weights a full fine-tuning trains.
#pragma once

#include <string>
#include <vector>

#include "core/optimizer.h"
#include "stepward/model.h"

namespace stepward {

// Every weight whose Hugging Face name no pattern matches, in the order of Model::weights(). In a pattern * stands for
// any text and ? for one character: "model.embed_tokens.*", "model.layers.0.*". Throws INVALID_ARGUMENT where a pattern
// matches nothing, or nothing would be left to train.
std::vector<Parameter> trainable_weights(const Model& model, const std::vector<std::string>& freeze);

}  // namespace stepward
