// What this CPU can do, read once by cpuid. Decides which dtypes are offered on the CPU.
#pragma once

#include <string>
#include <vector>

namespace stepward {

// Of avx2, fma, avx512f, avx512_bf16, amx_bf16: those that both the chip and the operating system support.
std::vector<std::string> cpu_features();

// Whether bfloat16 matrix products are fast here (AVX512-BF16 or AMX-BF16). Without them they are 3 to 80 times slower
// than float32, so bfloat16 is refused on the CPU.
bool cpu_bfloat16();

}  // namespace stepward
