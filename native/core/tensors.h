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

// Values as float64 on `device`, [n].
at::Tensor double_tensor(const std::vector<double>& values, const at::Device& device);

// A tensor of any floating type and device as a host vector.
std::vector<float> to_floats(const at::Tensor& tensor);
std::vector<double> to_doubles(const at::Tensor& tensor);

}  // namespace stepward
