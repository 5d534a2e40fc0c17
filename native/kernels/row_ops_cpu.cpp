// Compiles row_ops_body.inc once per instruction set.
#include "exact_float.h"

#include <limits>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"
#include "row_ops.h"

#define STEPWARD_BODY "row_ops_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

const std::vector<const RowOps*> kVariants = STEPWARD_VARIANTS(RowOps);

}  // namespace

std::vector<const RowOps*> available_row_ops() {
  std::vector<const RowOps*> available;
  for (const Isa isa : available_isas()) {
    const RowOps* ops = &variant_of(kVariants, isa);
    if (available.empty() || available.back() != ops) available.push_back(ops);
  }
  return available;
}

const RowOps& row_ops() {
  return variant_of(kVariants, isa());
}

}  // namespace stepward::kernels
