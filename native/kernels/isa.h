// Which instruction set the CPU kernels use: every kernel table has one variant for each of these, or for the first
// few.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace stepward::kernels {

// Each includes those before it. The last two differ from avx512 in the products of bf16 operands alone: AVX512-BF16
// adds pairs of products in vectors, AMX-BF16 multiplies tiles of 16 rows by 16 columns.
enum class Isa { baseline = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx_bf16 = 4 };

// The one in use: the last that the CPU has, or what ATEN_CPU_CAPABILITY (default, avx2, avx512, avx512_bf16, amx_bf16)
// caps it to.
Isa isa();

// Those this CPU and operating system can run, in order.
std::vector<Isa> available_isas();

// Of a kernel's tables, one for each instruction set that it has code for, in order: the one for `isa`.
template <typename Ops>
const Ops& variant_of(const std::vector<const Ops*>& tables, Isa isa) {
  return *tables[std::min(static_cast<size_t>(isa), tables.size() - 1)];
}

// Whether bf16 products run in hardware under the instruction set in use.
inline bool has_bf16_products() {
  return isa() >= Isa::avx512_bf16;
}

const char* isa_name(Isa isa);

// For tests: uses that one from now on in every thread; an empty name restores the choice by CPU. Returns false where
// the CPU lacks it.
bool use_isa(const std::string& name);

}  // namespace stepward::kernels
