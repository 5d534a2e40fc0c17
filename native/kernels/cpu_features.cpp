#include "stepward/cpu_features.h"

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace stepward {
namespace {

#if defined(__x86_64__)
// Register state the operating system saves on a context switch (XCR0).
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}
#endif

std::vector<std::string> read_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return found;  // no OSXSAVE: no wide registers
  const bool fma = c & (1u << 12);
  const uint64_t state = saved_state();
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6, tile = (state & 0x60000) == 0x60000;
  uint32_t a7 = 0, b7 = 0, c7 = 0, d7 = 0, a71 = 0, b71 = 0, c71 = 0, d71 = 0;
  __get_cpuid_count(7, 0, &a7, &b7, &c7, &d7);
  __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  if (ymm && (b7 & (1u << 5))) found.push_back("avx2");
  if (ymm && fma) found.push_back("fma");
  if (zmm && (b7 & (1u << 16))) found.push_back("avx512f");
  if (zmm && (a71 & (1u << 5))) found.push_back("avx512_bf16");
  if (tile && (d7 & (1u << 22))) found.push_back("amx_bf16");
#endif
  return found;
}

}  // namespace

std::vector<std::string> cpu_features() {
  static const std::vector<std::string> features = read_features();
  return features;
}

bool cpu_bfloat16() {
  const auto features = cpu_features();
  const auto has = [&](const char* name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  return has("avx512_bf16") || has("amx_bf16");
}

}  // namespace stepward
