#include "isa.h"

#include <atomic>
#include <cstdlib>

namespace stepward::kernels {
namespace {

constexpr const char* kNames[] = {"default", "avx2", "avx512"};

Isa choose() {
  const std::vector<Isa> available = available_isas();
  const char* cap = std::getenv("ATEN_CPU_CAPABILITY");
  for (const Isa candidate : available) {
    if (cap != nullptr && std::string(cap) == isa_name(candidate)) return candidate;
  }
  return available.back();
}

std::atomic<int> chosen{-1};

}  // namespace

const char* isa_name(Isa isa) {
  return kNames[static_cast<int>(isa)];
}

std::vector<Isa> available_isas() {
  std::vector<Isa> available{Isa::baseline};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) available.push_back(Isa::avx2);
  if (available.size() == 2 && __builtin_cpu_supports("avx512f")) available.push_back(Isa::avx512);
#endif
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

bool has_bf16_products() {
#ifdef __x86_64__
  return isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
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
