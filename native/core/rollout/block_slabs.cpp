#ifdef STEPWARD_CUDA

#include "core/rollout/block_slabs.h"

#include <algorithm>

#include <ATen/ops/zeros.h>

#include "stepward/error.h"

namespace stepward {
namespace {

constexpr int64_t kSlabBytes = int64_t{128} << 20, kMaxSlabs = 8192;

}  // namespace

BlockSlabs::BlockSlabs(int64_t block_elements, at::Device device)
    : block_elements_(block_elements),
      slab_blocks_(std::max<int64_t>(1, kSlabBytes / (block_elements * static_cast<int64_t>(sizeof(float))))),
      device_(device) {}

void BlockSlabs::reach(int64_t blocks) {
  if (!table_.defined()) table_ = at::zeros({kMaxSlabs}, at::TensorOptions(at::kLong).device(device_));
  while (static_cast<int64_t>(slabs_.size()) * slab_blocks_ < blocks) {
    const int64_t slab = static_cast<int64_t>(slabs_.size());
    if (slab == kMaxSlabs) fail(ErrorCode::OUT_OF_MEMORY, "keys and values: ", blocks, " blocks are too many");
    // Zero, because a weight of 0 times a value that is not finite would not be 0.
    slabs_.push_back(at::zeros({slab_blocks_ * block_elements_}, at::TensorOptions(at::kFloat).device(device_)));
    table_.select(0, slab).fill_(reinterpret_cast<int64_t>(slabs_.back().data_ptr()));
  }
}

kernels::BlockPool BlockSlabs::pool(int64_t layer_offset) const {
  return {static_cast<float* const*>(table_.data_ptr()), slab_blocks_, block_elements_, layer_offset};
}

void BlockSlabs::clear() {
  slabs_.clear();
  table_ = at::Tensor();
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
