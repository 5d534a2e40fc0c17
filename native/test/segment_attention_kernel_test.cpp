// Attention over chunks and their merge: equal to one softmax over a row's whole path in double, and the same bits
// whether a chunk is shared by many rows or read for each alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"
#include "kernels/panels.h"
#include "kernels/segment_attention.h"

namespace stepward::kernels {
namespace {

struct Chunk {
  int64_t tokens;
  std::vector<std::vector<float>> blocks;  // one KV head each
  std::vector<const float*> heads;
};

// Keys and values of `tokens` tokens; the slots behind them, and the columns beyond dim, hold what an earlier owner may
// have left there.
Chunk random_chunk(std::mt19937& random, int64_t tokens, int64_t dim) {
  std::normal_distribution<float> normal;
  Chunk chunk{tokens, {}, {}};
  for (int64_t begin = 0; begin < tokens; begin += kBlockTokens) {
    std::vector<float> block(head_block_elements(dim), std::numeric_limits<float>::quiet_NaN());
    for (int64_t t = 0; t < kBlockTokens && begin + t < tokens; ++t) {
      for (int64_t d = 0; d < dim; ++d) {
        block[d * kBlockTokens + t] = normal(random);
        block[dim * kBlockTokens + t * value_width(dim) + d] = normal(random);
      }
    }
    chunk.blocks.push_back(std::move(block));
  }
  for (const auto& block : chunk.blocks) chunk.heads.push_back(block.data());
  return chunk;
}

// The chunk's blocks as bf16 bits in pairs; its floats become those that they stand for.
std::vector<std::vector<uint16_t>> narrowed(Chunk& chunk, int64_t dim) {
  std::vector<std::vector<uint16_t>> narrow;
  for (auto& block : chunk.blocks) {
    std::vector<uint16_t> pairs(block.size());
    for (int64_t i = 0; i < static_cast<int64_t>(block.size()); ++i) {
      const uint16_t value = to_bf16(block[i]);
      const uint32_t bits = static_cast<uint32_t>(value) << 16;
      std::memcpy(&block[i], &bits, sizeof(float));
      const int64_t keys = dim * kBlockTokens, columns = i < keys ? kBlockTokens : value_width(dim);
      const int64_t begin = i < keys ? 0 : keys, row = (i - begin) / columns, column = (i - begin) % columns;
      pairs[begin + row / 2 * 2 * columns + 2 * column + row % 2] = value;
    }
    narrow.push_back(std::move(pairs));
  }
  return narrow;
}

std::vector<const uint16_t*> addresses(const std::vector<std::vector<uint16_t>>& blocks) {
  std::vector<const uint16_t*> at;
  for (const auto& block : blocks) at.push_back(block.data());
  return at;
}

struct Row {
  std::vector<int32_t> first, last;  // of each chunk
};

class SegmentAttentionTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(use_isa(isa_name(GetParam()))); }
  void TearDown() override { use_isa(""); }
};

// Every row sees some of every chunk; `together`: a chunk is one item.
std::vector<float> attend(const std::vector<Chunk>& chunks, const std::vector<Row>& rows, const std::vector<float>& q,
                          int64_t group, int64_t dim, bool together) {
  const int64_t count = static_cast<int64_t>(rows.size()), parts = count * static_cast<int64_t>(chunks.size());
  std::vector<float> out(parts * group * value_width(dim)), max(parts * group), sum(parts * group);
  for (size_t c = 0; c < chunks.size(); ++c) {
    std::vector<int32_t> ids, part, first, last;
    for (int64_t r = 0; r < count; ++r) {
      ids.push_back(static_cast<int32_t>(r));
      part.push_back(static_cast<int32_t>(r * static_cast<int64_t>(chunks.size()) + static_cast<int64_t>(c)));
      first.push_back(rows[r].first[c]);
      last.push_back(rows[r].last[c]);
    }
    const int64_t step = together ? count : 1;
    for (int64_t begin = 0; begin < count; begin += step) {
      attend_chunk_cpu({q.data(), group * dim, dim, 0, group, chunks[c].heads.data(), ids.data() + begin,
                        part.data() + begin, first.data() + begin, last.data() + begin, step, out.data(), max.data(),
                        sum.data(), group});
    }
  }
  std::vector<float> merged(count * group * dim);
  for (int64_t r = 0; r < count; ++r) {
    merge_parts_cpu(out.data(), max.data(), sum.data(), r * static_cast<int64_t>(chunks.size()),
                    (r + 1) * static_cast<int64_t>(chunks.size()), group, dim, merged.data() + r * group * dim);
  }
  return merged;
}

TEST_P(SegmentAttentionTest, EqualsOneSoftmaxOverThePath) {
  for (const auto& [dim, group] : {std::pair<int64_t, int64_t>{8, 1}, {40, 3}, {64, 3}, {80, 2}, {128, 8}}) {
    std::mt19937 random(static_cast<uint32_t>(dim));
    std::normal_distribution<float> normal;
    std::vector<Chunk> chunks;
    for (const int64_t tokens : {256, 17, 1, 100}) chunks.push_back(random_chunk(random, tokens, dim));
    std::vector<Row> rows;
    for (int r = 0; r < 29; ++r) {
      Row row;
      for (size_t c = 0; c < chunks.size(); ++c) {
        const int32_t tokens = static_cast<int32_t>(chunks[c].tokens);
        const bool own = c + 1 == chunks.size();
        row.last.push_back(own ? std::min(tokens, 1 + 4 * r) : tokens);
        // Some rows have a window: a part of the first chunk, or nothing of it.
        row.first.push_back(c > 0 ? 0 : r % 3 == 1 ? 40 + r : r % 3 == 2 ? row.last.back() : 0);
      }
      rows.push_back(row);
    }
    std::vector<float> q(rows.size() * group * dim);
    for (float& v : q) v = normal(random) / std::sqrt(static_cast<float>(dim));
    const auto shared = attend(chunks, rows, q, group, dim, true), alone = attend(chunks, rows, q, group, dim, false);
    EXPECT_EQ(std::memcmp(shared.data(), alone.data(), shared.size() * sizeof(float)), 0) << "dim " << dim;

    for (size_t r = 0; r < rows.size(); ++r) {
      for (int64_t h = 0; h < group; ++h) {
        const float* query = q.data() + (r * group + h) * dim;
        std::vector<double> expected(dim, 0);
        double total = 0;
        for (size_t c = 0; c < chunks.size(); ++c) {
          for (int32_t t = rows[r].first[c]; t < rows[r].last[c]; ++t) {
            const float* block = chunks[c].heads[t / kBlockTokens];
            double score = 0;
            for (int64_t d = 0; d < dim; ++d)
              score += static_cast<double>(query[d]) * block[d * kBlockTokens + t % kBlockTokens];
            const double p = std::exp(score);
            total += p;
            for (int64_t d = 0; d < dim; ++d)
              expected[d] += p * block[dim * kBlockTokens + t % kBlockTokens * value_width(dim) + d];
          }
        }
        for (int64_t d = 0; d < dim; ++d)
          ASSERT_NEAR(shared[(r * group + h) * dim + d], expected[d] / total, 3e-6) << "dim " << dim << " row " << r;
      }
    }
  }
}

// Pairs of bf16 bits give the very bits of the floats they stand for, where those are multiplied; products of bf16
// round queries and weights too, to 8 bits. A row's bits are the same alone.
TEST_P(SegmentAttentionTest, Bf16BlocksAreTheirFloats) {
  const float bound = has_bf16_products() ? 0.02f : 0.0f;
  for (const int64_t dim : {40, 64, 128}) {
    std::mt19937 random(static_cast<uint32_t>(dim));
    std::normal_distribution<float> normal;
    const int64_t tokens = 91, group = 3, rows = 25;
    Chunk chunk = random_chunk(random, tokens, dim);
    const auto narrow = narrowed(chunk, dim);
    const auto narrow_blocks = addresses(narrow);
    std::vector<float> q(rows * group * dim);
    for (float& v : q) v = normal(random) / std::sqrt(static_cast<float>(dim));
    // Some rows see a window, one sees nothing; the last few end before the others' last block.
    std::vector<int32_t> ids(rows), first(rows, 0), last(rows);
    for (int32_t r = 0; r < rows; ++r) {
      ids[r] = r;
      first[r] = r % 3 == 2 ? 41 : 0;
      last[r] = r < 20 ? 72 + r : 45 + r;
    }
    first[4] = last[4] = 91;
    first[5] = 40, last[5] = 47;  // both within one block
    std::vector<float> out[2], max[2], sum[2];
    for (int i = 0; i < 2; ++i) {
      out[i].assign(rows * group * value_width(dim), 0.0f);
      max[i].assign(rows * group, 0.0f);
      sum[i].assign(rows * group, 0.0f);
      attend_chunk_cpu({q.data(), group * dim, dim, 0, group, i == 0 ? chunk.heads.data() : nullptr, ids.data(),
                        ids.data(), first.data(), last.data(), rows, out[i].data(), max[i].data(), sum[i].data(), group,
                        narrow_blocks.data()});
    }
    std::vector<float> alone(out[1].size()), alone_max(max[1].size()), alone_sum(sum[1].size());
    for (int64_t r = 0; r < rows; ++r) {
      attend_chunk_cpu({q.data(), group * dim, dim, 0, group, nullptr, ids.data() + r, ids.data() + r, first.data() + r,
                        last.data() + r, 1, alone.data(), alone_max.data(), alone_sum.data(), group,
                        narrow_blocks.data()});
    }
    for (int64_t r = 0; r < rows * group; ++r) {
      const int64_t at = r * value_width(dim);
      EXPECT_EQ(std::memcmp(alone.data() + at, out[1].data() + at, dim * sizeof(float)), 0)
          << "dim " << dim << " " << r;
    }
    EXPECT_EQ(alone_max, max[1]);
    EXPECT_EQ(alone_sum, sum[1]);
    for (int64_t r = 0; r < rows * group; ++r) {
      if (bound == 0.0f || sum[0][r] == 0.0f) {
        ASSERT_EQ(max[0][r], max[1][r]);
        ASSERT_EQ(sum[0][r], sum[1][r]);
      }
      // A sum of values over the sum of its weights: what a merge makes of it.
      const float scale[2] = {std::max(sum[0][r], 1e-30f), std::max(sum[1][r], 1e-30f)};
      for (int64_t d = 0; d < dim; ++d) {
        ASSERT_NEAR(out[0][r * value_width(dim) + d] / scale[0], out[1][r * value_width(dim) + d] / scale[1], bound)
            << "dim " << dim << " row " << r;
      }
    }
    EXPECT_EQ(sum[0][4 * group], 0.0f) << "a row that sees nothing";
  }
}

// A NaN in what a row sees is not lost, wherever it lies.
TEST_P(SegmentAttentionTest, NanReachesTheResult) {
  const int64_t dim = 64;
  std::mt19937 random(3);
  for (const int64_t tokens : {1, 40}) {
    std::vector<Chunk> chunks;
    for (const int64_t count : {int64_t{50}, tokens}) chunks.push_back(random_chunk(random, count, dim));
    chunks[1].blocks[0][5 * kBlockTokens] = std::numeric_limits<float>::quiet_NaN();  // the first token's key
    const auto result =
        attend(chunks, {{{0, 0}, {50, static_cast<int32_t>(tokens)}}}, std::vector<float>(dim, 0.1f), 1, dim, true);
    for (const float v : result) EXPECT_TRUE(std::isnan(v));
  }
}

TEST_P(SegmentAttentionTest, NanOfBf16BlocksReachesTheResult) {
  const int64_t dim = 64, tokens = 40;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int64_t keys = dim * kBlockTokens, key = 5 * kBlockTokens, value = keys + 20 * value_width(dim) + 3;
  for (const int64_t at : {key, value}) {
    std::mt19937 random(3);
    Chunk chunk = random_chunk(random, tokens, dim);
    chunk.blocks[0][at] = nan;
    const auto narrow = narrowed(chunk, dim);
    const auto blocks = addresses(narrow);
    const std::vector<float> q(dim, 0.1f);
    const int32_t zero = 0;
    for (const int32_t first : {0, 21}) {  // of the values' NaN only the first row sees the token
      const int32_t last = static_cast<int32_t>(tokens);
      std::vector<float> out(value_width(dim));
      float max = 0, sum = 0;
      attend_chunk_cpu({q.data(), dim, dim, 0, 1, nullptr, &zero, &zero, &first, &last, 1, out.data(), &max, &sum, 1,
                        blocks.data()});
      for (int64_t d = 0; d < dim; ++d) {
        const bool lost = first == 0 && (at == key || d == 3);
        EXPECT_EQ(std::isnan(out[d] / sum), lost) << (at == key ? "key" : "value") << " column " << d;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, SegmentAttentionTest, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

TEST(SegmentAttention, LargeScoresDoNotOverflow) {
  std::mt19937 random(1);
  std::vector<Chunk> chunks;
  for (const int64_t tokens : {40, 3}) chunks.push_back(random_chunk(random, tokens, 8));
  const std::vector<Row> rows{{{0, 0}, {40, 3}}};
  for (const float v : attend(chunks, rows, std::vector<float>(8, 300.0f), 1, 8, true)) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace stepward::kernels
