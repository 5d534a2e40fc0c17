// Samples one token per row by Gumbel-max over Philox noise, without sorting or normalising the row. Rows are
// independent and a CPU call is single-threaded: the caller splits rows over threads as it likes. Weights are summed in
// fixed point, so that the same logits give the same Sample on every CPU and on CUDA.
#pragma once

#include <cstdint>

namespace stepward::kernels {

// Applied in transformers' order: temperature, top-k, top-p of the distribution that top-k left, min-p (arXiv
// 2407.01082, section 3), all at that temperature. The id that crosses p is kept, and so is the most probable id
// whatever the options.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, exact argmax, lowest id on ties
  int32_t top_k = 0;         // keep the k largest logits (all that tie with the k-th); 0: off
  float top_p = 1.0f;        // then the smallest set of largest probabilities with mass >= p (ties kept); 1: off
  float min_p = 0.0f;        // then the ids that are at least min_p times as probable as the likeliest; 0: off
  uint64_t seed = 0;
};

// Which random stream a row draws from. A candidate depends on these alone, not on what else is in the batch:
// noise of vocabulary id v is word v % 4 of Philox4x32-10(key = mix(seed, tree_key), counter = (position, v / 4, step,
// candidate)).
struct SampleKey {
  uint64_t tree_key;
  uint32_t step, candidate, position;
  uint32_t bar;  // non-zero: the barred ids may not be drawn (they still count in the raw log-prob)
};

struct Sample {
  int32_t id;
  // Raw: temperature 1, nothing truncated or barred.
  float logprob;
  // Of the distribution it was drawn from: after bar, temperature, top-k, top-p, min-p (0 when greedy).
  float sampling_logprob;
  // Log of the mass, at temperature T and after the bar, that top-k, top-p and min-p kept (0 when greedy).
  float log_kept;
};

// logits [rows, vocab] f32 with row stride `stride`; keys, out [rows]; barred [num_barred] ids.
// Logits of -inf are never drawn; barred ids outside [0, vocab) are ignored.
// Returns -1, or the first row that holds a NaN or +inf or has nothing left to draw (out is then undefined).
int64_t sample_rows_cpu(const float* logits, int64_t rows, int64_t vocab, int64_t stride, const SampleKey* keys,
                        const int32_t* barred, int64_t num_barred, const SamplingParams& params, Sample* out);

#ifdef STEPWARD_CUDA
// The same on device pointers; `bad_row` is one device int64 that the call sets to -1 or the first bad row.
void sample_rows_cuda(const float* logits, int64_t rows, int64_t vocab, int64_t stride, const SampleKey* keys,
                      const int32_t* barred, int64_t num_barred, const SamplingParams& params, Sample* out,
                      int64_t* bad_row, void* stream);
#endif

}  // namespace stepward::kernels
