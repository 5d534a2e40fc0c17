// What several CUDA kernels of the rollout engine take: where pool blocks lie, and where a product's input goes.
#pragma once

#include <cstdint>

namespace stepward::kernels {

// The pool is allocated in slabs, so that it can grow without moving. Block b of `block_stride` elements starts at
// slabs[b / slab_blocks] + (b % slab_blocks) * block_stride, and the layer's KV heads at `layer_offset` in it, one
// after the other, each as in segment_attention.h. All pointers are to the device, `slabs` too.
struct BlockPool {
  float* const* slabs;
  int64_t slab_blocks, block_stride, layer_offset;
};

// Activations that a product reads, in the dtype of its weights: one of the two is null.
struct ProductInput {
  float* f32;
  uint16_t* bf16;  // bits, rounded to nearest even
};

#ifdef __CUDACC__
__device__ __forceinline__ float* block_of(const BlockPool& pool, int32_t block) {
  const int32_t slab_blocks = static_cast<int32_t>(pool.slab_blocks);
  return pool.slabs[block / slab_blocks] + (block % slab_blocks) * pool.block_stride + pool.layer_offset;
}

__device__ __forceinline__ void put(const ProductInput& to, int64_t i, float value) {
  if (to.bf16 == nullptr) {
    to.f32[i] = value;
    return;
  }
  const uint32_t bits = __float_as_uint(value);
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  to.bf16[i] = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u : (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
#endif

}  // namespace stepward::kernels
