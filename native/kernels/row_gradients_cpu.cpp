// Compiles row_gradients_body.inc once per instruction set.
#include "exact_float.h"

#include "row_gradients.h"

#include <cmath>
#include <limits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"

#define STEPWARD_BODY "row_gradients_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

const std::vector<const RowGradientOps*> kVariants = STEPWARD_VARIANTS(RowGradientOps);

}  // namespace

const RowGradientOps& row_gradient_ops() {
  return variant_of(kVariants, isa());
}

}  // namespace stepward::kernels
