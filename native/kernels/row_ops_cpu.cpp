// Compiles row_ops_body.inc once per instruction set and picks one at run time; the build itself stays at the baseline.
#include "exact_float.h"

#include <atomic>
#include <cstdlib>
#include <limits>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "row_ops.h"

namespace stepward::kernels::baseline {
#define STEPWARD_VECTOR_BYTES 16
#define STEPWARD_VECTOR_NAME "default"
#include "row_ops_body.inc"
}  // namespace stepward::kernels::baseline

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace stepward::kernels::avx2 {
#define STEPWARD_VECTOR_BYTES 32
#define STEPWARD_VECTOR_NAME "avx2"
#include "row_ops_body.inc"
}  // namespace stepward::kernels::avx2
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
namespace stepward::kernels::avx512 {
#define STEPWARD_VECTOR_BYTES 64
#define STEPWARD_VECTOR_NAME "avx512"
#include "row_ops_body.inc"
}  // namespace stepward::kernels::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__

namespace stepward::kernels {
namespace {

const RowOps& choose() {
  const std::vector<const RowOps*> available = available_row_ops();
  const char* cap = std::getenv("ATEN_CPU_CAPABILITY");
  for (const RowOps* ops : available) {
    if (cap != nullptr && std::string(cap) == ops->name) return *ops;
  }
  return *available.back();
}

std::atomic<const RowOps*> chosen{nullptr};

}  // namespace

std::vector<const RowOps*> available_row_ops() {
  std::vector<const RowOps*> available{&baseline::kOps};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2")) available.push_back(&avx2::kOps);
  if (__builtin_cpu_supports("avx512f")) available.push_back(&avx512::kOps);
#endif
  return available;
}

const RowOps& row_ops() {
  const RowOps* ops = chosen.load(std::memory_order_acquire);
  if (ops == nullptr) {
    ops = &choose();
    chosen.store(ops, std::memory_order_release);
  }
  return *ops;
}

bool use_row_ops(const std::string& name) {
  if (name.empty()) {
    chosen.store(&choose(), std::memory_order_release);
    return true;
  }
  for (const RowOps* ops : available_row_ops()) {
    if (name == ops->name) {
      chosen.store(ops, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace stepward::kernels
