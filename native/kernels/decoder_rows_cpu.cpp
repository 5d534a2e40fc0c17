// Compiles decoder_rows_body.inc once per instruction set.
#include "exact_float.h"

#include "decoder_rows.h"

#include <cmath>
#include <limits>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "isa.h"
#include "panels.h"

#define STEPWARD_BODY "decoder_rows_body.inc"
#include "isa_variants.inc"

namespace stepward::kernels {
namespace {

const std::vector<const DecoderRowOps*> kVariants = STEPWARD_VARIANTS(DecoderRowOps);

}  // namespace

const DecoderRowOps& decoder_row_ops() {
  return variant_of(kVariants, isa());
}

}  // namespace stepward::kernels
