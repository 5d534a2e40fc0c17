// Writing a safetensors file without publishing it yet, for folders of several files.
#pragma once

#include <map>
#include <string>

#include "pending_file.h"
#include "stepward/checkpoint.h"

namespace stepward {

// Header and data of `tensors` into `file`, finished but not published.
void write_safetensors_into(PendingFile& file, const TensorMap& tensors,
                            const std::map<std::string, std::string>& metadata);

}  // namespace stepward
