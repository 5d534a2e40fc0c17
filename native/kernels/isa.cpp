#include "isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "stepward/cpu_features.h"

namespace stepward::kernels {
namespace {

constexpr const char* kNames[] = {"default", "avx2", "avx512", "avx512_bf16", "amx_bf16"};

Isa choose() {
  const std::vector<Isa> available = available_isas();
  const char* cap = std::getenv("ATEN_CPU_CAPABILITY");
  for (const Isa candidate : available) {
    if (cap != nullptr && std::string(cap) == isa_name(candidate)) return candidate;
  }
  return available.back();
}

std::atomic<int> chosen{-1};

// Linux saves tiles only for a process that has asked for them (arch_prctl(2)); asking again is harmless.
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace

const char* isa_name(Isa isa) {
  return kNames[static_cast<int>(isa)];
}

std::vector<Isa> available_isas() {
  std::vector<Isa> available{Isa::baseline};
  const std::vector<std::string> features = cpu_features();
  const auto has = [&](const char* name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  if (!has("avx2") || !has("fma")) return available;
  available.push_back(Isa::avx2);
  if (!has("avx512f")) return available;
  available.push_back(Isa::avx512);
  if (!has("avx512_bf16")) return available;
  available.push_back(Isa::avx512_bf16);
  if (has("amx_bf16") && may_use_tiles()) available.push_back(Isa::amx_bf16);
  return available;
}

Isa isa() {
  int known = chosen.load(std::memory_order_acquire);
  if (known < 0) {
    known = static_cast<int>(choose());
    chosen.store(known, std::memory_order_release);
  }
  return static_cast<Isa>(known);
}

bool use_isa(const std::string& name) {
  if (name.empty()) {
    chosen.store(static_cast<int>(choose()), std::memory_order_release);
    return true;
  }
  for (const Isa candidate : available_isas()) {
    if (name == isa_name(candidate)) {
      chosen.store(static_cast<int>(candidate), std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace stepward::kernels
