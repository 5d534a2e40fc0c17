#include "addon/cuda_devices.h"

#ifdef STEPWARD_CUDA
#include <cuda_runtime_api.h>
#endif

namespace stepward::addon {

std::vector<std::string> cuda_devices() {
  std::vector<std::string> names;
#ifdef STEPWARD_CUDA
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver: not an error here, and it must not show up in a later check
    return names;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) names.push_back(properties.name);
  }
#endif
  return names;
}

}  // namespace stepward::addon
