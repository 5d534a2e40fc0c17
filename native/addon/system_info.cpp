// What the addon was built with and what this machine offers, for `doctor` and for choosing device and dtype.
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/headeronly/version.h>

#include "addon/convert.h"
#include "addon/cuda_devices.h"
#include "addon/exports.h"
#include "addon/threads.h"
#include "stepward/cpu_features.h"

namespace stepward::addon {
namespace {

Napi::Array texts(Napi::Env env, const std::vector<std::string>& values) {
  auto array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, to_js(env, values[i]));
  return array;
}

}  // namespace

Napi::Value system_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
#ifdef STEPWARD_CUDA
  const bool cuda_built = true;
#else
  const bool cuda_built = false;
#endif
  const auto devices = cuda_devices();
  auto out = Napi::Object::New(env);
  out.Set("version", STEPWARD_VERSION);
  out.Set("torch", TORCH_VERSION);
  out.Set("cudaBuilt", Napi::Boolean::New(env, cuda_built));
  out.Set("cudaAvailable", Napi::Boolean::New(env, !devices.empty() && at::detail::getCUDAHooks().hasCUDA()));
  out.Set("cudaDevices", texts(env, devices));
  out.Set("cpuCapability", at::get_cpu_capability());
  out.Set("cpuFeatures", texts(env, cpu_features()));
  out.Set("threads", threads());
  out.Set("cpuBfloat16", Napi::Boolean::New(env, cpu_bfloat16()));
  return out;
}

Napi::Value set_thread_count(const Napi::CallbackInfo& info) {
  set_threads(static_cast<int>(Field(info[0], "threads").integer(1, kMaxThreads)));
  return info.Env().Undefined();
}

}  // namespace stepward::addon
