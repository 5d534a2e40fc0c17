// Names of the CUDA devices this build can use.
#pragma once

#include <string>
#include <vector>

namespace stepward::addon {

// Empty without a driver or a device, and in a build without CUDA.
std::vector<std::string> cuda_devices();

}  // namespace stepward::addon
