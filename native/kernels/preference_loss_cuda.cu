// CUDA twin of preference_loss.h: one thread per pair.
#include "exact_float.h"

#include "preference_loss.h"

#include "preference_pair.h"

namespace stepward::kernels {
namespace {

constexpr int kThreads = 128;

__global__ void loss_kernel(PreferencePairs in, PreferenceLossParams params, PreferenceGradients out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= in.pairs) return;
  const PairLoss pair = preference_pair_loss(in, params, i);
  const double weight = in.weight[i];
  out.loss[i] = weight * pair.loss;
  out.grad_chosen[i] = weight * pair.grad_chosen;
  out.grad_rejected[i] = weight * pair.grad_rejected;
}

}  // namespace

void preference_loss_cuda(const PreferencePairs& in, const PreferenceLossParams& params, const PreferenceGradients& out,
                          void* stream) {
  if (in.pairs == 0) return;
  const auto blocks = static_cast<unsigned>((in.pairs + kThreads - 1) / kThreads);
  loss_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(in, params, out);
}

}  // namespace stepward::kernels
