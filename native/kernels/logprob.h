// Log-prob of selected tokens from blocks of vocabulary logits, by online log-sum-exp: the [rows, vocab] matrix is
// never whole. All pointers are on the device of the twin. Rows are independent and a CPU call is single-threaded: the
// caller splits rows over threads as it likes.
#pragma once

#include <cstdint>

namespace stepward::kernels {

// One block of vocabulary columns [col0, col0 + cols) of `rows` rows.
struct LogitBlock {
  const float* logits;  // [rows, cols] f32, row stride `stride`
  int64_t rows, cols, stride, col0;
};

// Folds the block into the running state: max [rows] f32 (start at -inf), sum [rows] f32 of exp(z - max) (start at 0),
// target_logit [rows] f32 (written by the block that holds column targets[row]). A NaN logit makes sum NaN; a row of
// only -inf keeps sum 0; +inf makes it NaN as well. Then logp = (target_logit - max) - log(sum), which keeps its
// precision where the logits are far from 0, and lse = max + log(sum). Where `weighted` [rows] f32 is given (start at
// 0) it takes the sum of exp(z - max) z: the row's entropy is lse - weighted / sum.
void logprob_update_cpu(const LogitBlock& block, const int32_t* targets, float* max, float* sum, float* target_logit,
                        float* weighted = nullptr);

// In place: z -> grad[row] * (1[col == targets[row]] - exp(z - lse[row])), the gradient of
// logp = z[target] - lse with respect to z, times grad [rows] f32. `logits` is what is read and written; of `block`
// only the sizes count. A row whose grad is 0 becomes 0. exp(z - lse) is as exact as lse: half an ulp of it in relative
// terms.
void logprob_backward_cpu(float* logits, const LogitBlock& block, const int32_t* targets, const float* lse,
                          const float* grad);

#ifdef STEPWARD_CUDA
void logprob_update_cuda(const LogitBlock& block, const int32_t* targets, float* max, float* sum, float* target_logit,
                         float* weighted, void* stream);
void logprob_backward_cuda(float* logits, const LogitBlock& block, const int32_t* targets, const float* lse,
                           const float* grad, void* stream);
#endif

}  // namespace stepward::kernels
