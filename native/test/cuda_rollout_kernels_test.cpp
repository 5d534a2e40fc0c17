// The CUDA kernels of the rollout engine against their CPU twins. Skipped where the build or the machine has no CUDA.
#include <gtest/gtest.h>

#ifdef STEPWARD_CUDA

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <vector>

#include "helpers/on_device.h"
#include "helpers/sampler_reference.h"
#include "kernels/decoder_rows.h"
#include "kernels/segment_attention.h"

namespace stepward::kernels {
namespace {

using reference::normal_logits;
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<uint16_t> bf16_bits(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  decoder_row_ops().to_bf16(values.data(), static_cast<int64_t>(values.size()), bits.data());
  return bits;
}

TEST_F(CudaTwins, RowsAreEmbeddedAndGathered) {
  const std::vector<float> table = normal_logits(7 * 5, 1.0, 1);
  const std::vector<uint16_t> narrow = bf16_bits(table);
  const OnDevice<float> wide(table), x(std::vector<float>(2 * 5));
  const OnDevice<uint16_t> bits(narrow), gathered(std::vector<uint16_t>(2 * 5));
  const OnDevice<int32_t> tokens({6, 2});
  for (const bool bf16 : {false, true}) {
    embed_cuda(bf16 ? static_cast<const void*>(bits.get()) : wide.get(), bf16, tokens.get(), 2, 5, x.get(), nullptr);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (size_t i = 0; i < 10; ++i) {
      const size_t from = (i < 5 ? 6 : 2) * 5 + i % 5;
      const uint32_t widened = static_cast<uint32_t>(narrow[from]) << 16;
      float expected = table[from];
      if (bf16) std::memcpy(&expected, &widened, sizeof(expected));
      EXPECT_EQ(x.host()[i], expected);
    }
  }
  const OnDevice<const void*> addresses({bits.get() + 3 * 5, bits.get()});
  gather_rows_cuda(addresses.get(), 2, 5 * 2, gathered.get(), nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(gathered.host()[i], narrow[(i < 5 ? 3 : 0) * 5 + i % 5]);
}

TEST_F(CudaTwins, RmsNormTakesUpTheResidual) {
  const int64_t rows = 3, n = 1003;
  const std::vector<float> x = normal_logits(rows * n, 2.0, 1), add = normal_logits(rows * n, 1.0, 2),
                           weight = normal_logits(n, 1.0, 3);
  std::vector<float> sum(x.size()), expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) sum[i] = x[i] + add[i];
  for (int64_t r = 0; r < rows; ++r) {
    decoder_row_ops().rms_norm(sum.data() + r * n, n, 1e-6f, weight.data(), expected.data() + r * n);
  }
  const OnDevice<float> dx(x), dadd(add), dweight(weight), y(expected);
  const OnDevice<uint16_t> narrow{std::vector<uint16_t>(x.size())};
  rms_norm_cuda(dx.get(), dadd.get(), rows, n, 1e-6f, dweight.get(), {y.get(), nullptr}, nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(dx.host(), sum);
  expect_near(y.host(), expected, 1e-6);
  rms_norm_cuda(dx.get(), nullptr, rows, n, 1e-6f, dweight.get(), {nullptr, narrow.get()}, nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(dx.host(), sum);
  EXPECT_EQ(narrow.host(), bf16_bits(y.host()));
}

TEST_F(CudaTwins, SiluMulGivesTheSameBits) {
  const int64_t rows = 2, n = 301;
  const std::vector<float> in = normal_logits(rows * 2 * n, 20.0, 1);
  std::vector<float> expected(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    const float* gate = in.data() + r * 2 * n;
    decoder_row_ops().silu_mul(gate, gate + n, n, expected.data() + r * n);
  }
  const OnDevice<float> din(in), out(expected);
  const OnDevice<uint16_t> narrow{std::vector<uint16_t>(expected.size())};
  silu_mul_cuda(din.get(), rows, n, {out.get(), nullptr}, nullptr);
  silu_mul_cuda(din.get(), rows, n, {nullptr, narrow.get()}, nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(out.host(), expected);
  EXPECT_EQ(narrow.host(), bf16_bits(expected));
}

// A pool of blocks on the host, and its copy on the device in slabs of two blocks. Values beyond head_dim are 0.
struct Pool {
  int64_t dim, kv_heads, stride;
  std::vector<float> data;

  Pool(int64_t blocks, int64_t head_dim, int64_t heads)
      : dim(head_dim), kv_heads(heads), stride(heads * head_block_elements(head_dim)) {
    data = normal_logits(static_cast<size_t>(blocks * stride), 1.0, static_cast<uint32_t>(head_dim));
    const int64_t width = value_width(dim);
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t h = 0; h < kv_heads; ++h) {
        for (int64_t t = 0; t < kBlockTokens; ++t) {
          std::fill_n(head(b, h) + dim * kBlockTokens + t * width + dim, width - dim, 0.0f);
        }
      }
    }
  }
  float* head(int64_t block, int64_t kv_head) {
    return data.data() + block * stride + kv_head * head_block_elements(dim);
  }
};

class DevicePool {
 public:
  explicit DevicePool(const Pool& pool) : stride_(pool.stride) {
    const int64_t slab = kSlabBlocks * stride_, size = static_cast<int64_t>(pool.data.size());
    std::vector<float*> addresses;
    for (int64_t at = 0; at < size; at += slab) {
      slabs_.emplace_back(std::vector<float>(pool.data.begin() + at, pool.data.begin() + std::min(size, at + slab)));
      addresses.push_back(slabs_.back().get());
    }
    table_.emplace_back(addresses);
  }
  BlockPool get() const { return {table_.front().get(), kSlabBlocks, stride_, 0}; }
  std::vector<float> host() const {
    std::vector<float> all;
    for (const OnDevice<float>& slab : slabs_) {
      const std::vector<float> part = slab.host();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

 private:
  static constexpr int64_t kSlabBlocks = 2;
  int64_t stride_;
  std::deque<OnDevice<float>> slabs_;
  std::deque<OnDevice<float*>> table_;
};

TEST_F(CudaTwins, RotaryWriteFillsTheSlots) {
  const int64_t rows = 4, heads = 4, kv_heads = 2, positions = 50;
  for (const int64_t dim : {16, 64, 80, 128}) {
    for (const bool whole : {false, true}) {  // with biases and norms
      SCOPED_TRACE(testing::Message() << "head_dim " << dim << " with bias and norms: " << whole);
      const int64_t half = dim / 2, width = (heads + 2 * kv_heads) * dim;
      const std::vector<int32_t> at{0, 49, 7, 3};
      const std::vector<int64_t> slots{3 * kBlockTokens + 31, 0, -1, kBlockTokens + 5};
      const std::vector<float> cos = normal_logits(positions * half, 1.0, 1),
                               sin = normal_logits(positions * half, 1.0, 2), q_norm = normal_logits(dim, 1.0, 3),
                               k_norm = normal_logits(dim, 1.0, 4), bias = normal_logits(width, 1.0, 5),
                               qkv = normal_logits(rows * width, 1.0, 6);
      Pool pool(5, dim, kv_heads);
      const DevicePool device_pool(pool);
      const OnDevice<float> dcos(cos), dsin(sin), dq(q_norm), dk(k_norm), dbias(bias), dqkv(qkv);
      const OnDevice<int32_t> dat(at);
      const OnDevice<int64_t> dslots(slots);
      rotary_write_cuda(dqkv.get(), device_pool.get(),
                        {.rows = rows,
                         .heads = heads,
                         .kv_heads = kv_heads,
                         .head_dim = dim,
                         .positions = dat.get(),
                         .slots = dslots.get(),
                         .cos = dcos.get(),
                         .sin = dsin.get(),
                         .q_norm = whole ? dq.get() : nullptr,
                         .k_norm = whole ? dk.get() : nullptr,
                         .bias = whole ? dbias.get() : nullptr,
                         .eps = 1e-6f,
                         .scale = 0.25f},
                        nullptr);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

      const DecoderRowOps& ops = decoder_row_ops();
      std::vector<float> expected = qkv;  // its queries; keys and values stay as they are
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<float> row(qkv.begin() + r * width, qkv.begin() + (r + 1) * width);
        for (int64_t i = 0; whole && i < width; ++i) row[i] += bias[i];
        for (int64_t h = 0; h < heads + kv_heads; ++h) {
          float* x = row.data() + h * dim;
          if (whole) ops.rms_norm(x, dim, 1e-6f, h < heads ? q_norm.data() : k_norm.data(), x);
          ops.rotate(x, half, cos.data() + at[r] * half, sin.data() + at[r] * half, h < heads ? 0.25f : 1.0f);
        }
        std::copy_n(row.data(), heads * dim, expected.data() + r * width);
        if (slots[r] < 0) continue;
        for (int64_t h = 0; h < kv_heads; ++h) {
          float* to = pool.head(slots[r] / kBlockTokens, h);
          const int64_t token = slots[r] % kBlockTokens;
          for (int64_t d = 0; d < dim; ++d) {
            to[d * kBlockTokens + token] = row[(heads + h) * dim + d];
            to[dim * kBlockTokens + token * value_width(dim) + d] = row[(heads + kv_heads + h) * dim + d];
          }
        }
      }
      expect_near(dqkv.host(), expected, 1e-6);
      expect_near(device_pool.host(), pool.data, 1e-6);
    }
  }
}

// Chunks of several lengths and rows that see all, some or none of them. One part for each entry.
struct AttentionCase {
  std::vector<std::vector<int32_t>> blocks;  // [chunks]
  std::vector<int32_t> begins{0};            // [chunks + 1] first entries
  std::vector<AttentionEntry> entries;
  int32_t rows = 0;

  void chunk(std::vector<int32_t> of, const std::vector<std::pair<int32_t, int32_t>>& seen) {
    blocks.push_back(std::move(of));
    for (const auto& [first, last] : seen) {
      entries.push_back({rows++ % 7, static_cast<int32_t>(entries.size()), first, last});
    }
    begins.push_back(static_cast<int32_t>(entries.size()));
  }
};

AttentionCase attention_case() {
  AttentionCase c;
  std::vector<std::pair<int32_t, int32_t>> all(23, {0, 256});
  all[3] = {200, 256};
  all[4] = {0, 1};
  c.chunk({5, 1, 8, 0, 3, 9, 10, 2}, all);
  c.chunk({4, 6}, {{0, 40}});
  c.chunk({7, 11, 12}, {{0, 70}, {33, 69}, {70, 70}, {64, 65}, {0, 96}});
  return c;
}

struct Parts {
  std::vector<float> out, max, sum;
};

Parts attend_on_cpu(const AttentionCase& c, Pool& pool, const std::vector<float>& q, int64_t heads) {
  const int64_t parts = static_cast<int64_t>(c.entries.size()), group = heads / pool.kv_heads;
  Parts result{std::vector<float>(parts * heads * value_width(pool.dim)), std::vector<float>(parts * heads),
               std::vector<float>(parts * heads)};
  std::vector<int32_t> row, part, first, last;
  for (const AttentionEntry& e : c.entries) {
    row.push_back(e.row);
    part.push_back(e.part);
    first.push_back(e.first);
    last.push_back(e.last);
  }
  for (size_t i = 0; i < c.blocks.size(); ++i) {
    for (int64_t h = 0; h < pool.kv_heads; ++h) {
      std::vector<const float*> head_blocks;
      for (const int32_t b : c.blocks[i]) head_blocks.push_back(pool.head(b, h));
      const int32_t at = c.begins[i];
      attend_chunk_cpu({q.data(), heads * pool.dim, pool.dim, h * group, group, head_blocks.data(), row.data() + at,
                        part.data() + at, first.data() + at, last.data() + at, c.begins[i + 1] - at, result.out.data(),
                        result.max.data(), result.sum.data(), heads});
    }
  }
  return result;
}

// In pieces of at most `at_once` entries.
Parts attend_on_gpu(const AttentionCase& c, const Pool& pool, const std::vector<float>& q, int64_t heads,
                    int32_t at_once) {
  std::vector<AttentionPiece> pieces{{0, 0, 0, 0}};  // padding
  std::vector<int32_t> blocks;
  for (size_t i = 0; i < c.blocks.size(); ++i) {
    for (int32_t begin = c.begins[i]; begin < c.begins[i + 1]; begin += at_once) {
      pieces.push_back({begin, std::min(c.begins[i + 1], begin + at_once), static_cast<int32_t>(blocks.size()),
                        static_cast<int32_t>(c.blocks[i].size())});
    }
    blocks.insert(blocks.end(), c.blocks[i].begin(), c.blocks[i].end());
  }
  const size_t results = c.entries.size() * static_cast<size_t>(heads);
  const DevicePool device_pool(pool);
  const OnDevice<float> dq(q), out(std::vector<float>(results * value_width(pool.dim), 55.0f)),
      max(std::vector<float>(results, 55.0f)), sum(std::vector<float>(results, 55.0f));
  const OnDevice<AttentionPiece> dpieces(pieces);
  const OnDevice<AttentionEntry> dentries(c.entries);
  const OnDevice<int32_t> dblocks(blocks);
  attend_chunks_cuda({.q = dq.get(),
                      .q_stride = heads * pool.dim,
                      .head_dim = pool.dim,
                      .num_heads = heads,
                      .num_kv_heads = pool.kv_heads,
                      .pool = device_pool.get(),
                      .pieces = dpieces.get(),
                      .num_pieces = static_cast<int64_t>(pieces.size()),
                      .blocks = dblocks.get(),
                      .entries = dentries.get(),
                      .entry_stride = 1,
                      .out = out.get(),
                      .max = max.get(),
                      .sum = sum.get()},
                     nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return {out.host(), max.host(), sum.host()};
}

TEST_F(CudaTwins, AttentionAgreesHoweverItIsSplit) {
  const AttentionCase c = attention_case();
  for (const int64_t dim : {16, 64, 80, 128, 256}) {
    for (const int64_t group : {1, 3}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << dim << " group " << group);
      const int64_t heads = 2 * group;
      Pool pool(13, dim, 2);
      const std::vector<float> q = normal_logits(7 * heads * dim, 1.0 / std::sqrt(static_cast<double>(dim)), 9);
      const Parts expected = attend_on_cpu(c, pool, q, heads);
      const Parts whole = attend_on_gpu(c, pool, q, heads, 100), split = attend_on_gpu(c, pool, q, heads, 1);
      expect_near(whole.max, expected.max, 1e-5);
      expect_near(whole.sum, expected.sum, 1e-5);
      expect_near(whole.out, expected.out, 1e-5);
      EXPECT_EQ(whole.max, split.max);
      EXPECT_EQ(whole.sum, split.sum);
      EXPECT_EQ(whole.out, split.out);
    }
  }
}

TEST_F(CudaTwins, AttentionIgnoresWhatLiesBehindTheLastToken) {
  AttentionCase c;
  c.chunk({1, 0}, {{0, 40}, {0, 35}});
  const int64_t dim = 64, width = value_width(dim);
  Pool pool(2, dim, 1);
  const std::vector<float> q = normal_logits(7 * dim, 0.1, 9);
  const Parts expected = attend_on_gpu(c, pool, q, 1, 2);
  for (int64_t t = 40 - kBlockTokens; t < kBlockTokens; ++t) {
    for (int64_t d = 0; d < dim; ++d) {
      pool.head(0, 0)[d * kBlockTokens + t] = std::nanf("");
      pool.head(0, 0)[dim * kBlockTokens + t * width + d] = std::nanf("");
    }
  }
  const Parts got = attend_on_gpu(c, pool, q, 1, 2);
  EXPECT_EQ(got.out, expected.out);
  EXPECT_EQ(got.max, expected.max);
  EXPECT_EQ(got.sum, expected.sum);
}

TEST_F(CudaTwins, MergeGivesTheSameBits) {
  const int64_t heads = 5, parts = 6;
  const std::vector<int32_t> offsets{0, 3, 4, 4, 6};
  for (const int64_t dim : {16, 80, 256}) {
    const int64_t width = value_width(dim), rows = 4;
    const std::vector<float> out = normal_logits(parts * heads * width, 1.0, 1);
    std::vector<float> max = normal_logits(parts * heads, 5.0, 2), sum(parts * heads, 2.5f);
    max[1 * heads + 2] = -kInf;  // nothing visible
    sum[1 * heads + 2] = 0.0f;
    std::vector<float> expected(rows * heads * dim, 0.0f);
    for (const int64_t r : {0, 1, 3}) {  // row 2 is padding
      merge_parts_cpu(out.data(), max.data(), sum.data(), offsets[r], offsets[r + 1], heads, dim,
                      expected.data() + r * heads * dim);
    }
    const OnDevice<float> dout(out), dmax(max), dsum(sum), merged(std::vector<float>(expected.size(), 55.0f));
    const OnDevice<uint16_t> narrow{std::vector<uint16_t>(expected.size())};
    const OnDevice<int32_t> doffsets(offsets);
    merge_parts_cuda(dout.get(), dmax.get(), dsum.get(), doffsets.get(), rows, heads, dim, {merged.get(), nullptr},
                     nullptr);
    merge_parts_cuda(dout.get(), dmax.get(), dsum.get(), doffsets.get(), rows, heads, dim, {nullptr, narrow.get()},
                     nullptr);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(merged.host(), expected);
    EXPECT_EQ(narrow.host(), bf16_bits(expected));
  }
}

}  // namespace
}  // namespace stepward::kernels

#else

TEST(CudaTwins, NeedACudaBuild) {
  GTEST_SKIP() << "built without CUDA";
}

#endif
