// CUDA twin of segment_attention.h. A thread block takes the query rows of one piece and one KV head. Keys and then
// values stream through a ring of shared tiles that is filled ahead of their use; scores stay in registers, a lane for
// each token of a block. Sums run in the order of the CPU twin, and so give its bits where the CPU has FMA.
#include "exact_float.h"

#include "segment_attention.h"

#include <cuda_pipeline_primitives.h>

#include "block_reduce.cuh"

namespace stepward::kernels {
namespace {

constexpr int kBlock = static_cast<int>(kBlockTokens), kChunkBlocks = static_cast<int>(kChunkTokens / kBlockTokens);
constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kQueries = static_cast<int>(kPieceQueries);
constexpr int kRing = 3;       // tiles
constexpr int kKeyDims = 128;  // dimensions of a tile of keys: 16 KB
constexpr unsigned kAll = 0xFFFFFFFFu;
static_assert(kBlock == kWarp && kQueries == kWarp, "lanes stand for tokens of a block, and for queries of a tile");

__device__ float lowest() {
  return bits_as<float>(0xFF800000u);
}

// Sizes that follow from a job, in floats where they are of memory.
struct Shape {
  int dim, group, width, head_block;
  int q_pitch, tile, value_columns;  // of a row of shared queries, of a tile of the ring, columns of a tile of values
};

// What a thread block works on.
struct Work {
  const StepAttention& job;
  const Shape& shape;
  const AttentionEntry* entries;  // of the piece
  int queries, first_head;        // entries times group, the first query head of the group
  const float* const* heads;      // [blocks of the chunk] the KV head in each, shared
  float *q, *ring, *weights;      // shared: [kQueries, q_pitch], [kRing, tile], [kWarps, kQueries / kWarps, kBlock]

  __device__ const AttentionEntry& entry(int query) const { return entries[query / shape.group * job.entry_stride]; }
  __device__ int head(int query) const { return first_head + query % shape.group; }
  // Of the query's part and head in max and sum.
  __device__ int64_t result(int query) const { return entry(query).part * job.num_heads + head(query); }
};

// The queries [begin, begin + count), Q a warp at most: query begin + j * kWarps + warp is the warp's j-th. A lane sums
// up `Columns` columns of values at a time.
template <int Columns, int Q>
__device__ void attend_tile(const Work& work, int begin, int count) {
  const Shape& shape = work.shape;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const bool busy = warp < count;  // a warp without queries only fetches

  // Lane i of every warp has the bounds of query i; the tile needs the blocks that any of its queries sees.
  int my_first = static_cast<int>(kChunkTokens), my_last = 0;
  if (lane < count) {
    my_first = work.entry(begin + lane).first;
    my_last = work.entry(begin + lane).last;
  }
  int first = my_first, last = my_last;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    first = min(first, __shfl_xor_sync(kAll, first, offset));
    last = max(last, __shfl_xor_sync(kAll, last, offset));
  }
  const int first_block = first / kBlock, blocks = max(0, (last + kBlock - 1) / kBlock - first_block);

  __syncthreads();  // the tile before may still be read
  for (int i = warp; i < Q * kWarps; i += kWarps) {
    const float* row = nullptr;
    if (i < count) row = work.job.q + work.entry(begin + i).row * work.job.q_stride + work.head(begin + i) * shape.dim;
    for (int d = lane; d < shape.dim; d += kWarp) work.q[i * shape.q_pitch + d] = row == nullptr ? 0.0f : row[d];
  }

  const int key_tiles = (shape.dim + kKeyDims - 1) / kKeyDims;
  const int value_tiles = (shape.width + shape.value_columns - 1) / shape.value_columns;
  const int key_steps = blocks * key_tiles, steps = key_steps + blocks * value_tiles;
  const auto fetch = [&](int step) {
    float* to = work.ring + step % kRing * shape.tile;
    if (step < key_steps) {
      const int from = step % key_tiles * kKeyDims, dims = min(kKeyDims, shape.dim - from);
      const float* keys = work.heads[first_block + step / key_tiles] + from * kBlock;
      for (int i = threadIdx.x * 4; i < dims * kBlock; i += kThreads * 4) __pipeline_memcpy_async(to + i, keys + i, 16);
    } else if (step < steps) {
      const int block = first_block + (step - key_steps) % blocks;
      const int column = (step - key_steps) / blocks * shape.value_columns + lane * 4;
      const float* values = work.heads[block] + shape.dim * kBlock;
      if (lane * 4 < shape.value_columns && column < shape.width) {
        for (int t = warp; t < kBlock; t += kWarps) {
          // What lies behind the last token is not this step's: it may be NaN, which a weight of 0 would let through.
          const size_t zeros = block * kBlock + t < last ? 0 : 16;
          __pipeline_memcpy_async(to + t * shape.value_columns + lane * 4, values + t * shape.width + column, 16,
                                  zeros);
        }
      }
    }
    __pipeline_commit();
  };
  int step = 0;
  // The next tile, once all of it is there; the tile before is free from then on and filled anew.
  const auto next = [&]() {
    __pipeline_wait_prior(kRing - 2);
    __syncthreads();
    fetch(step + kRing - 1);
    return work.ring + step++ % kRing * shape.tile + lane;
  };
  for (int i = 0; i < kRing - 1; ++i) fetch(i);

  float scores[Q][kChunkBlocks];  // of token (first_block + b) * 32 + lane; then its weight
  float sums[Q];
#pragma unroll
  for (int b = 0; b < kChunkBlocks; ++b) {
#pragma unroll
    for (int j = 0; j < Q; ++j) scores[j][b] = lowest();
    if (b < blocks) {
#pragma unroll
      for (int j = 0; j < Q; ++j) sums[j] = 0.0f;
      for (int tile = 0; tile < key_tiles; ++tile) {
        const float* keys = next();
        const float* q = work.q + warp * shape.q_pitch + tile * kKeyDims;
        const int dims = busy ? min(kKeyDims, shape.dim - tile * kKeyDims) : 0;
        int d = 0;
        for (; d + 4 <= dims; d += 4) {
          const float k0 = keys[d * kBlock], k1 = keys[(d + 1) * kBlock];
          const float k2 = keys[(d + 2) * kBlock], k3 = keys[(d + 3) * kBlock];
#pragma unroll
          for (int j = 0; j < Q; ++j) {
            const float4 x = *reinterpret_cast<const float4*>(q + j * kWarps * shape.q_pitch + d);
            sums[j] = fmaf(x.w, k3, fmaf(x.z, k2, fmaf(x.y, k1, fmaf(x.x, k0, sums[j]))));
          }
        }
        for (; d < dims; ++d) {
          const float k = keys[d * kBlock];
#pragma unroll
          for (int j = 0; j < Q; ++j) sums[j] = fmaf(q[j * kWarps * shape.q_pitch + d], k, sums[j]);
        }
      }
      const int token = (first_block + b) * kBlock + lane;
#pragma unroll
      for (int j = 0; j < Q; ++j) {
        const int from = __shfl_sync(kAll, my_first, j * kWarps + warp);
        const int to = __shfl_sync(kAll, my_last, j * kWarps + warp);
        if (token >= from && token < to) scores[j][b] = sums[j];
      }
    }
  }

#pragma unroll
  for (int j = 0; j < Q; ++j) {
    float top = lowest();
    bool nan = false;
#pragma unroll
    for (int b = 0; b < kChunkBlocks; ++b) {
      top = fmaxf(top, scores[j][b]);
      nan = nan || scores[j][b] != scores[j][b];
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(kAll, top, offset));
    if (__any_sync(kAll, nan)) top = bits_as<float>(0x7FC00000u);
    float part = 0.0f, total = 0.0f;
#pragma unroll
    for (int b = 0; b < kChunkBlocks; ++b) {
      const float weight = top == lowest() ? 0.0f : exp_f32(exact_add(scores[j][b], -top));
      scores[j][b] = weight;
      part = exact_add(part, weight);
    }
    for (int l = 0; l < kWarp; ++l) total = exact_add(total, __shfl_sync(kAll, part, l));
    if (lane == 0 && j * kWarps + warp < count) {
      const int64_t at = work.result(begin + j * kWarps + warp);
      work.job.max[at] = top;
      work.job.sum[at] = total;
    }
  }

  float* weights = work.weights + warp * (kQueries / kWarps) * kBlock;
  for (int tile = 0; tile < value_tiles; ++tile) {
    float out[Q][Columns];
#pragma unroll
    for (int j = 0; j < Q; ++j) {
#pragma unroll
      for (int c = 0; c < Columns; ++c) out[j][c] = 0.0f;
    }
#pragma unroll
    for (int b = 0; b < kChunkBlocks; ++b) {
      if (b < blocks) {
        __syncwarp();  // the weights before have been read
#pragma unroll
        for (int j = 0; j < Q; ++j) weights[j * kBlock + lane] = scores[j][b];
        const float* values = next();  // a barrier, so the weights are there as well
        for (int t = 0; busy && t < kBlock; t += 4) {
          float v[4][Columns];
#pragma unroll
          for (int u = 0; u < 4; ++u) {
#pragma unroll
            for (int c = 0; c < Columns; ++c) v[u][c] = values[(t + u) * shape.value_columns + c * kWarp];
          }
#pragma unroll
          for (int j = 0; j < Q; ++j) {
            const float4 p = *reinterpret_cast<const float4*>(weights + j * kBlock + t);
#pragma unroll
            for (int c = 0; c < Columns; ++c) {
              out[j][c] = fmaf(p.w, v[3][c], fmaf(p.z, v[2][c], fmaf(p.y, v[1][c], fmaf(p.x, v[0][c], out[j][c]))));
            }
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < Q; ++j) {
      if (j * kWarps + warp >= count) continue;
      float* to = work.job.out + work.result(begin + j * kWarps + warp) * shape.width;
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        const int column = tile * shape.value_columns + c * kWarp + lane;
        if (column < shape.width) to[column] = out[j][c];
      }
    }
  }
}

template <int Columns>
__global__ void __launch_bounds__(kThreads, 3) attend_kernel(StepAttention job, Shape shape) {
  extern __shared__ float4 shared_memory[];
  __shared__ const float* heads[kChunkBlocks];
  const AttentionPiece piece = job.pieces[blockIdx.x];
  const int queries = (piece.entry_end - piece.entry_begin) * shape.group;
  if (queries <= 0) return;
  const int kv_head = blockIdx.y;
  if (threadIdx.x < piece.num_blocks) {
    heads[threadIdx.x] = block_of(job.pool, job.blocks[piece.block_begin + threadIdx.x]) +
                         static_cast<int64_t>(kv_head) * shape.head_block;
  }
  float* q = reinterpret_cast<float*>(shared_memory);
  float* ring = q + kQueries * shape.q_pitch;
  const Work work{job,
                  shape,
                  job.entries + piece.entry_begin * job.entry_stride,
                  queries,
                  kv_head * shape.group,
                  heads,
                  q,
                  ring,
                  ring + kRing * shape.tile};
  for (int begin = 0; begin < queries; begin += kQueries) {
    const int count = min(kQueries, queries - begin);
    if (count > 4 * kWarps) {
      attend_tile<Columns, 8>(work, begin, count);
    } else if (count > 2 * kWarps) {
      attend_tile<Columns, 4>(work, begin, count);
    } else if (count > kWarps) {
      attend_tile<Columns, 2>(work, begin, count);
    } else {
      attend_tile<Columns, 1>(work, begin, count);
    }
  }
}

template <int Columns>
void launch(const StepAttention& job, cudaStream_t stream) {
  Shape shape{};
  shape.dim = static_cast<int>(job.head_dim);
  shape.group = static_cast<int>(job.num_heads / job.num_kv_heads);
  shape.width = static_cast<int>(value_width(job.head_dim));
  shape.head_block = static_cast<int>(head_block_elements(job.head_dim));
  shape.q_pitch = (shape.dim + 3) / 4 * 4;
  shape.value_columns = Columns * kWarp;
  const int key_dims = shape.dim < kKeyDims ? shape.dim : kKeyDims;
  shape.tile = kBlock * (key_dims > shape.value_columns ? key_dims : shape.value_columns);
  const size_t bytes = sizeof(float) * (kQueries * shape.q_pitch + kRing * shape.tile + kQueries * kBlock);
  // 48 KB need no asking. 128 dimensions take 68 KB, 256 take 84: less than any GPU from sm_80 on has.
  if (bytes > 48 * 1024) {
    cudaFuncSetAttribute(attend_kernel<Columns>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
  const dim3 grid(static_cast<unsigned>(job.num_pieces), static_cast<unsigned>(job.num_kv_heads));
  attend_kernel<Columns><<<grid, kThreads, bytes, stream>>>(job, shape);
}

// One warp for each row and head; the order of operations is the CPU twin's.
__global__ void merge_kernel(const float* parts_out, const float* max, const float* sum, const int32_t* part_offsets,
                             int64_t num_heads, int64_t dim, int64_t width, ProductInput out) {
  const int64_t row = blockIdx.x, head = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarp;
  if (head >= num_heads) return;
  const int64_t begin = part_offsets[row], end = part_offsets[row + 1];
  float top = lowest();
  for (int64_t p = begin; p < end; ++p) {
    const float m = max[p * num_heads + head];
    top = m > top ? m : top;
  }
  float total = 0.0f;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t at = p * num_heads + head;
    if (sum[at] != 0.0f) total = exact_add(total, exact_mul(exp_f32(exact_add(max[at], -top)), sum[at]));
  }
  const float scale = 1.0f / total;
  for (int64_t d = threadIdx.x % kWarp; d < dim; d += kWarp) {
    float value = 0.0f;
    bool fresh = true;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = p * num_heads + head;
      if (sum[at] == 0.0f) continue;
      const float term = exact_mul(exp_f32(exact_add(max[at], -top)), parts_out[at * width + d]);
      value = fresh ? term : exact_add(value, term);
      fresh = false;
    }
    put(out, (row * num_heads + head) * dim + d, fresh ? 0.0f : exact_mul(value, scale));
  }
}

}  // namespace

void attend_chunks_cuda(const StepAttention& job, void* stream) {
  if (job.num_pieces == 0) return;
  if (job.head_dim <= 64) {
    launch<2>(job, static_cast<cudaStream_t>(stream));
  } else {
    launch<4>(job, static_cast<cudaStream_t>(stream));
  }
}

void merge_parts_cuda(const float* parts_out, const float* max, const float* sum, const int32_t* part_offsets,
                      int64_t rows, int64_t num_heads, int64_t head_dim, const ProductInput& out, void* stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>((num_heads + kWarps - 1) / kWarps));
  merge_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(parts_out, max, sum, part_offsets, num_heads,
                                                                         head_dim, value_width(head_dim), out);
}

}  // namespace stepward::kernels
