// Regions of code for instruction sets that have few kernels of their own, which only isa() may lead to.
#pragma once

#ifdef __x86_64__
#define STEPWARD_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define STEPWARD_TARGET_BEGIN(set) \
  STEPWARD_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define STEPWARD_TARGET_END STEPWARD_PRAGMA(clang attribute pop)
#else
#define STEPWARD_TARGET_BEGIN(set) STEPWARD_PRAGMA(GCC push_options) STEPWARD_PRAGMA(GCC target(set))
#define STEPWARD_TARGET_END STEPWARD_PRAGMA(GCC pop_options)
#endif
#define STEPWARD_BF16_TARGET_BEGIN STEPWARD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512bf16,fma")
#define STEPWARD_TILE_TARGET_BEGIN STEPWARD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")
#endif
