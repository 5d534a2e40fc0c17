#include "core/row_gradient.h"

#include <algorithm>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>

#include "core/huge_pages.h"

namespace stepward {
namespace {

// Of a slab: 4 MiB.
constexpr int64_t kSlabValues = int64_t{1} << 20;

}  // namespace

at::Tensor untouched_zeros(at::IntArrayRef sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  const size_t bytes = std::max<size_t>(1, static_cast<size_t>(count) * sizeof(float));
  void* memory = map_pages(bytes);
  madvise(memory, bytes, MADV_NOHUGEPAGE);  // a page of a few rows, not one of hundreds
  return at::from_blob(memory, sizes, [bytes](void* mapped) { munmap(mapped, bytes); }, at::kFloat);
}

RowGradient::RowGradient(const at::Tensor& gradient) {
  const at::Tensor merged = gradient.coalesce();
  rows_ = merged.indices()[0].to(at::kCPU).contiguous();
  values_ = merged.values().to(at::kFloat);
}

at::Tensor RowGradient::with_rows(const at::Tensor& moved) const {
  return std::get<0>(at::_unique(at::cat({moved, rows_}), /*sorted=*/true));
}

void RowGradient::each_slab(const at::Tensor& moved,
                            const std::function<void(const at::Tensor&, const at::Tensor&)>& use) const {
  const int64_t columns = values_.size(1), at_once = std::max<int64_t>(1, kSlabValues / columns);
  const int64_t* rows = rows_.const_data_ptr<int64_t>();
  const int64_t* last = rows + rows_.numel();
  for (int64_t begin = 0; begin < moved.numel(); begin += at_once) {
    const at::Tensor some = moved.narrow(0, begin, std::min(at_once, moved.numel() - begin));
    const int64_t* ids = some.const_data_ptr<int64_t>();
    const int64_t* from = std::lower_bound(rows, last, ids[0]);
    const int64_t* to = std::upper_bound(from, last, ids[some.numel() - 1]);
    at::Tensor gradient = at::zeros({some.numel(), columns}, values_.options());
    if (from < to) {
      const at::Tensor at = at::searchsorted(some, rows_.narrow(0, from - rows, to - from));
      gradient.index_copy_(0, at.to(values_.device()), values_.narrow(0, from - rows, to - from));
    }
    use(some.to(values_.device()), gradient);
  }
}

at::Tensor rows_in_use(const at::Tensor& tensor) {
  return at::amax(tensor, 1).nonzero().squeeze(1).to(at::kCPU);
}

}  // namespace stepward
