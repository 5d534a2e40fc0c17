// CUDA twin of sampler.h: one block per row. Weights, their fixed-point sums, thresholds and noise are those of the CPU
// twin bit for bit, so the same logits give the same ids. Nothing is stored per vocabulary id; weights are recomputed.
#include "exact_float.h"

#include "sampler.h"

#include "block_reduce.cuh"
#include "kept_threshold.h"
#include "philox.h"

namespace stepward::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 256;
using Mass = unsigned long long;  // the type that atomicAdd takes

__device__ float lowest() {
  return bits_as<float>(0xFF800000u);
}
__device__ float infinity() {
  return bits_as<float>(0x7F800000u);
}

struct Shared {
  float warp_float[kThreads / kWarp];
  int32_t warp_int[kThreads / kWarp];
  Mass warp_mass[kThreads / kWarp];
  Mass bin[kBins];
  unsigned used[kBins];
  uint32_t prefix;
  Mass wanted;
  double best_score[kThreads];
  int32_t best_id[kThreads];
};

struct Row {
  const float* logits;
  int32_t vocab;
  const int32_t* barred;  // none where num_barred is 0
  int64_t num_barred;
  float base, inverse_temperature;
  uint32_t least;  // ids with a smaller order_key are not kept

  __device__ bool open(int32_t id) const {
    for (int64_t i = 0; i < num_barred; ++i) {
      if (barred[i] == id) return false;
    }
    return true;
  }

  // Weight of a kept id, 0 for the others.
  __device__ float weight(int32_t id) const {
    if (order_key(logits[id]) < least || !open(id)) return 0.0f;
    return exp_f32(exact_mul(exact_add(logits[id], -base), inverse_temperature));
  }

  __device__ Mass mass(Shared* shared) const {
    Mass sum = 0;
    for (int32_t id = threadIdx.x; id < vocab; id += kThreads) sum += weight_mass(weight(id));
    return block_reduce(sum, shared->warp_mass, Add{});
  }
};

// The largest key such that `wanted` ids with a weight above 0 (by_mass: ids of that mass) have it or a larger one; the
// smallest key with a weight where all are not enough.
__device__ uint32_t threshold(const Row& row, Mass wanted, bool by_mass, Shared* shared) {
  uint32_t prefix = 0;
  uint32_t known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kBins; i += kThreads) {
      shared->bin[i] = 0;
      shared->used[i] = 0;
    }
    __syncthreads();
    for (int32_t id = threadIdx.x; id < row.vocab; id += kThreads) {
      const uint32_t key = order_key(row.logits[id]);
      if ((key & known) != prefix) continue;
      const float weight = row.weight(id);
      if (weight == 0.0f) continue;
      const uint32_t digit = (key >> shift) & 0xFFu;
      atomicAdd(&shared->bin[digit], by_mass ? static_cast<Mass>(weight_mass(weight)) : Mass{1});
      shared->used[digit] = 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t lowest_used = 0;
      while (lowest_used < kBins - 1 && shared->used[lowest_used] == 0) ++lowest_used;
      uint32_t digit = kBins - 1;
      while (digit > lowest_used && shared->bin[digit] < wanted) wanted -= shared->bin[digit--];
      shared->prefix = prefix | digit << shift;
      shared->wanted = wanted;
    }
    __syncthreads();
    prefix = shared->prefix;
    wanted = shared->wanted;
    known |= 0xFFu << shift;
    __syncthreads();
  }
  return prefix;
}

__device__ int32_t draw(const Row& row, const NoiseStream& stream, Shared* shared) {
  Draw best;
  const int32_t blocks = row.vocab / 4 + (row.vocab % 4 != 0 ? 1 : 0);
  for (int32_t block = threadIdx.x; block < blocks; block += kThreads) {
    float weight[4];
    bool any = false;
    for (int j = 0; j < 4; ++j) {
      const int32_t id = block * 4 + j;
      weight[j] = id < row.vocab ? row.weight(id) : 0.0f;
      any = any || (weight[j] > 0.0f && weight[j] >= best.least_weight());
    }
    if (!any) continue;
    const PhiloxBlock noise = stream.block(static_cast<uint32_t>(block));
    for (int j = 0; j < 4; ++j) {
      if (weight[j] > 0.0f && weight[j] >= Draw::half_noise(noise.word[j]) * best.bar()) {
        best.consider(block * 4 + j, weight[j], noise.word[j]);
      }
    }
  }
  shared->best_score[threadIdx.x] = best.score;
  shared->best_id[threadIdx.x] = best.id;
  __syncthreads();
  for (int offset = kThreads / 2; offset > 0; offset /= 2) {
    if (threadIdx.x < offset) {
      Draw mine;
      mine.score = shared->best_score[threadIdx.x];
      mine.id = shared->best_id[threadIdx.x];
      mine.merge(shared->best_score[threadIdx.x + offset], shared->best_id[threadIdx.x + offset]);
      shared->best_score[threadIdx.x] = mine.score;
      shared->best_id[threadIdx.x] = mine.id;
    }
    __syncthreads();
  }
  return shared->best_id[0];
}

// The lowest id that holds the maximum.
__device__ int32_t first_maximum(const Row& row, Shared* shared) {
  int32_t found = row.vocab;
  for (int32_t id = threadIdx.x; id < row.vocab; id += kThreads) {
    if (row.logits[id] == row.base && row.open(id)) {
      found = id;
      break;
    }
  }
  return -block_reduce(-found, shared->warp_int, Larger{});
}

__global__ void sample_kernel(const float* logits, int32_t vocab, int64_t stride, const SampleKey* keys,
                              const int32_t* barred, int64_t num_barred, SamplingParams params, double gap, Sample* out,
                              Mass* bad_row) {
  __shared__ Shared shared;
  const SampleKey key = keys[blockIdx.x];
  Row row{logits + blockIdx.x * stride, vocab, barred, key.bar != 0 ? num_barred : 0, 0.0f, 1.0f, 0};

  float open_max = lowest();
  float raw_max = lowest();
  int32_t has_nan = 0;
  for (int32_t id = threadIdx.x; id < vocab; id += kThreads) {
    const float z = row.logits[id];
    if (z != z) has_nan = 1;
    if (z > raw_max) raw_max = z;
    if (z > open_max && row.open(id)) open_max = z;
  }
  open_max = block_reduce(open_max, shared.warp_float, Larger{});
  raw_max = block_reduce(raw_max, shared.warp_float, Larger{});
  has_nan = block_reduce(has_nan, shared.warp_int, Larger{});
  if (has_nan != 0 || open_max == lowest() || raw_max == infinity()) {
    if (threadIdx.x == 0) atomicMin(bad_row, static_cast<Mass>(blockIdx.x));
    return;
  }

  Mass raw_mass = 0;
  for (int32_t id = threadIdx.x; id < vocab; id += kThreads) {
    raw_mass += weight_mass(exp_f32(exact_add(row.logits[id], -raw_max)));
  }
  raw_mass = block_reduce(raw_mass, shared.warp_mass, Add{});

  row.base = open_max;
  Sample sample{0, 0.0f, 0.0f, 0.0f};
  if (!(params.temperature > 0.0f)) {
    sample.id = first_maximum(row, &shared);
  } else {
    const float inverse = 1.0f / params.temperature;
    row.inverse_temperature = inverse > 3.4028234663852886e38f ? 3.4028234663852886e38f : inverse;
    const Mass all = row.mass(&shared);
    Mass kept = all;
    if (params.top_k > 0 && params.top_k < vocab) {
      row.least = threshold(row, static_cast<Mass>(params.top_k), false, &shared);
      kept = row.mass(&shared);
    }
    if (params.top_p < 1.0f) {
      row.least = threshold(row, top_p_target(params.top_p, kept), true, &shared);
      kept = row.mass(&shared);
    }
    if (params.min_p > 0.0f) {
      const uint32_t least = min_p_threshold(open_max, gap);
      if (least > row.least) row.least = least;
      kept = row.mass(&shared);
    }
    sample.id = draw(row, noise_stream(params.seed, key.tree_key, key.position, key.step, key.candidate), &shared);
    const double scaled = (static_cast<double>(row.logits[sample.id]) - open_max) / params.temperature;
    sample.sampling_logprob = static_cast<float>(scaled - log_mass(kept));
    if (kept != all) sample.log_kept = static_cast<float>(log_mass(kept) - log_mass(all));
  }
  sample.logprob = static_cast<float>(static_cast<double>(row.logits[sample.id]) - raw_max - log_mass(raw_mass));
  if (threadIdx.x == 0) out[blockIdx.x] = sample;
}

}  // namespace

void sample_rows_cuda(const float* logits, int64_t rows, int64_t vocab, int64_t stride, const SampleKey* keys,
                      const int32_t* barred, int64_t num_barred, const SamplingParams& params, Sample* out,
                      int64_t* bad_row, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  // All bits set is -1 as int64 and, for the kernel's minimum, the largest unsigned number.
  cudaMemsetAsync(bad_row, 0xFF, sizeof(*bad_row), on);
  if (rows == 0) return;
  sample_kernel<<<static_cast<unsigned>(rows), kThreads, 0, on>>>(
      logits, static_cast<int32_t>(vocab), stride, keys, barred, num_barred, params,
      min_p_gap(params.temperature, params.min_p), out, reinterpret_cast<Mass*>(bad_row));
}

}  // namespace stepward::kernels
