// Regions of code for instruction sets that have few kernels of their own, which only isa() may lead to.
#pragma once

#ifdef __x86_64__
#ifdef __clang__
#define STEPWARD_BF16_TARGET_BEGIN                                                                              \
  _Pragma(                                                                                                      \
      "clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512vl,avx512bf16,fma\"))), apply_to = " \
      "function)")
#define STEPWARD_TILE_TARGET_BEGIN                                                                                     \
  _Pragma(                                                                                                             \
      "clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512vl,avx512bf16,fma,amx-tile,amx-bf16\"))), " \
      "apply_to = function)")
#define STEPWARD_TARGET_END _Pragma("clang attribute pop")
#else
#define STEPWARD_BF16_TARGET_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512vl,avx512bf16,fma\")")
#define STEPWARD_TILE_TARGET_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512vl,avx512bf16,fma,amx-tile,amx-bf16\")")
#define STEPWARD_TARGET_END _Pragma("GCC pop_options")
#endif
#endif
