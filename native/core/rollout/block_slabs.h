// Device memory of the pool's blocks, allocated in slabs as blocks are first used: a small job takes little, and blocks
// never move, so that captured graphs stay valid while the pool grows.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "kernels/device_operands.h"

namespace stepward {

class BlockSlabs {
 public:
  // `block_elements` f32 values a block.
  BlockSlabs(int64_t block_elements, at::Device device);

  // Makes the blocks [0, blocks) usable; new memory is zero. Throws OUT_OF_MEMORY beyond a terabyte.
  void reach(int64_t blocks);
  // All blocks, the layer's part at `layer_offset` in each. reach() must have been called once.
  kernels::BlockPool pool(int64_t layer_offset) const;
  // Gives all memory back.
  void clear();

 private:
  const int64_t block_elements_, slab_blocks_;
  const at::Device device_;
  std::vector<at::Tensor> slabs_;
  at::Tensor table_;  // [kMaxSlabs] i64 on the device: where each slab lies
};

}  // namespace stepward
