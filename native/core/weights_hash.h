// A fingerprint of a model's weights, to key caches of what was computed with them. Not cryptographic.
#pragma once

#include <optional>
#include <string>

#include "stepward/checkpoint.h"

namespace stepward {

// 128 bits as 32 hexadecimal digits, over names, dtypes, shapes and values. The same on every machine and for every
// number of threads; devices do not matter. `as`: of the values in this dtype, whatever dtype they have.
std::string weights_hash(const TensorMap& weights, std::optional<at::ScalarType> as = std::nullopt);

}  // namespace stepward
