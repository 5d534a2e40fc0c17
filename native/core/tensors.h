// Small conversions between std::vector and tensors, used across the core.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace stepward {

// Values as int64 indices on `device`, [n].
at::Tensor index_tensor(const std::vector<int32_t>& values, const at::Device& device);
at::Tensor index_tensor(const std::vector<int64_t>& values, const at::Device& device);

// Values as float32 on `device`, [n].
at::Tensor float_tensor(const std::vector<float>& values, const at::Device& device);

// A float tensor of any device as a host vector.
std::vector<float> to_floats(const at::Tensor& tensor);

}  // namespace stepward
