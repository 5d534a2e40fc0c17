#include "core/tensors.h"

#include <algorithm>

#include <ATen/ops/empty.h>

namespace stepward {
namespace {

template <typename To, typename From>
at::Tensor copy_of(const std::vector<From>& values, at::ScalarType dtype, const at::Device& device) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), host.data_ptr<To>());
  return host.to(device);
}

template <typename To>
std::vector<To> host_values(const at::Tensor& tensor, at::ScalarType dtype) {
  const at::Tensor host = tensor.detach().to(at::kCPU, dtype).contiguous();
  const To* data = host.data_ptr<To>();
  return std::vector<To>(data, data + host.numel());
}

}  // namespace

at::Tensor index_tensor(const std::vector<int32_t>& values, const at::Device& device) {
  return copy_of<int64_t>(values, at::kLong, device);
}
at::Tensor index_tensor(const std::vector<int64_t>& values, const at::Device& device) {
  return copy_of<int64_t>(values, at::kLong, device);
}
at::Tensor float_tensor(const std::vector<float>& values, const at::Device& device) {
  return copy_of<float>(values, at::kFloat, device);
}
at::Tensor double_tensor(const std::vector<double>& values, const at::Device& device) {
  return copy_of<double>(values, at::kDouble, device);
}

std::vector<float> to_floats(const at::Tensor& tensor) {
  return host_values<float>(tensor, at::kFloat);
}
std::vector<double> to_doubles(const at::Tensor& tensor) {
  return host_values<double>(tensor, at::kDouble);
}

}  // namespace stepward
