// Which instruction set the CPU kernels use: every kernel table has one variant for each of these.
#pragma once

#include <string>
#include <vector>

namespace stepward::kernels {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The one in use: the widest the CPU has, or what ATEN_CPU_CAPABILITY (default, avx2, avx512) caps it to.
Isa isa();

// Those this CPU can run, narrowest first.
std::vector<Isa> available_isas();

// Whether products of bf16 pairs run in hardware (AVX512-BF16) under the instruction set in use.
bool has_bf16_products();

const char* isa_name(Isa isa);

// For tests: uses that one from now on in every thread; an empty name restores the choice by CPU. Returns false where
// the CPU lacks it.
bool use_isa(const std::string& name);

}  // namespace stepward::kernels
