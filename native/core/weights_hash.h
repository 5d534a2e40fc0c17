// Fingerprints of a model: of its weights, to know an adapter's base again, and of all that its log-probs follow from,
// to key caches of what was computed with it. Not cryptographic.
#pragma once

#include <string>

#include "stepward/checkpoint.h"
#include "stepward/model.h"

namespace stepward {

// 128 bits as 32 hexadecimal digits, over names, shapes and values as `as`, whatever dtype they have. The same on every
// machine and for every number of threads; devices do not matter.
std::string weights_hash(const TensorMap& weights, at::ScalarType as);

// The same over the weights in their own dtype, without adapters, and over the fields of the config that a forward pass
// reads (heads, norm epsilon, rope, windows): equal weights under another config are another model.
std::string model_hash(const Model& model);

}  // namespace stepward
