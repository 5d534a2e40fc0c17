#include "core/sample_rows.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "stepward/error.h"

#ifdef STEPWARD_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace stepward {
namespace {

[[noreturn]] void fail_row(int64_t row) {
  fail(ErrorCode::NUMERICAL, "sampling: row ", row,
       " of the batch has a NaN or infinite logit, or no token left to draw");
}

#ifdef STEPWARD_CUDA
template <typename T>
at::Tensor to_device_bytes(const std::vector<T>& values, const at::Device& device) {
  at::Tensor host = at::empty({static_cast<int64_t>(std::max<size_t>(1, values.size()) * sizeof(T))}, at::kByte);
  std::memcpy(host.data_ptr(), values.data(), values.size() * sizeof(T));
  return host.to(device);
}

std::vector<kernels::Sample> sample_rows_on_gpu(const at::Tensor& logits, const std::vector<kernels::SampleKey>& keys,
                                                const std::vector<int32_t>& barred,
                                                const kernels::SamplingParams& params) {
  const int64_t rows = logits.size(0);
  const at::Tensor device_keys = to_device_bytes(keys, logits.device()),
                   device_barred = to_device_bytes(barred, logits.device());
  at::Tensor out = at::empty({rows * static_cast<int64_t>(sizeof(kernels::Sample))}, logits.options().dtype(at::kByte));
  at::Tensor bad_row = at::empty({1}, logits.options().dtype(at::kLong));
  kernels::sample_rows_cuda(logits.const_data_ptr<float>(), rows, logits.size(1), logits.stride(0),
                            static_cast<const kernels::SampleKey*>(device_keys.const_data_ptr()),
                            static_cast<const int32_t*>(device_barred.const_data_ptr()),
                            static_cast<int64_t>(barred.size()), params, static_cast<kernels::Sample*>(out.data_ptr()),
                            bad_row.data_ptr<int64_t>(), c10::cuda::getCurrentCUDAStream().stream());
  const int64_t bad = bad_row.item<int64_t>();
  if (bad >= 0) fail_row(bad);
  std::vector<kernels::Sample> samples(rows);
  std::memcpy(samples.data(), out.to(at::kCPU).const_data_ptr(), rows * sizeof(kernels::Sample));
  return samples;
}
#endif

}  // namespace

std::vector<kernels::Sample> sample_rows(const at::Tensor& logits, const std::vector<kernels::SampleKey>& keys,
                                         const std::vector<int32_t>& barred, const kernels::SamplingParams& params) {
#ifdef STEPWARD_CUDA
  if (logits.is_cuda()) return sample_rows_on_gpu(logits, keys, barred, params);
#endif
  const int64_t rows = logits.size(0), vocab = logits.size(1), stride = logits.stride(0);
  const float* data = logits.const_data_ptr<float>();
  std::vector<kernels::Sample> samples(rows);
  std::atomic<int64_t> first_bad{rows};
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    const int64_t bad =
        kernels::sample_rows_cpu(data + begin * stride, end - begin, vocab, stride, keys.data() + begin, barred.data(),
                                 static_cast<int64_t>(barred.size()), params, samples.data() + begin);
    int64_t known = first_bad;
    while (bad >= 0 && begin + bad < known && !first_bad.compare_exchange_weak(known, begin + bad)) {
    }
  });
  if (first_bad < rows) fail_row(first_bad);
  return samples;
}

}  // namespace stepward
