// Reductions over one thread block by warp shuffles. Every thread of the block must call them; every thread gets the
// result.
#pragma once

#include <cstdint>

namespace stepward::kernels {

constexpr int kWarp = 32;

// `combine` must be associative and commutative. `shared` holds one value per warp.
template <typename T, typename Combine>
__device__ T block_reduce(T value, T* shared, const Combine& combine) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
  }
  const int warps = blockDim.x / kWarp;
  __syncthreads();  // `shared` may still be read from the reduction before
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < warps; ++warp) value = combine(value, shared[warp]);
  return value;
}

struct Add {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Larger {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

}  // namespace stepward::kernels
