// rope_table against literal values of transformers 5 (LlamaRotaryEmbedding, head_dim 16, printed with 9 digits). They
// may differ in the last bits where a machine's float32 pow does.
#include <gtest/gtest.h>

#include "stepward/model_config.h"

namespace stepward {
namespace {

void expect_table(const RopeConfig& rope, const std::vector<float>& inv_freq, float scaling) {
  ModelConfig config;
  config.head_dim = 16;
  config.rope = rope;
  const RopeTable table = rope_table(config);
  ASSERT_EQ(table.inv_freq.size(), inv_freq.size());
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    EXPECT_NEAR(table.inv_freq[i], inv_freq[i], 3e-7f * inv_freq[i]) << "frequency " << i;
  }
  EXPECT_FLOAT_EQ(table.attention_scaling, scaling);
}

TEST(Rope, Default) {
  expect_table({},
               {1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f, 0.00100000005f,
                0.000316227786f},
               1.0f);
  expect_table({.theta = 1e6},
               {1.0f, 0.177827939f, 0.0316227786f, 0.00562341325f, 0.00100000005f, 0.00017782794f, 3.16227743e-05f,
                5.62341347e-06f},
               1.0f);
}

TEST(Rope, Linear) {
  expect_table({.kind = RopeKind::linear, .factor = 4},
               {0.25f, 0.079056941f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f, 0.000250000012f,
                7.90569466e-05f},
               1.0f);
}

TEST(Rope, Llama3) {
  expect_table({.kind = RopeKind::llama3, .theta = 500000, .factor = 8, .original_max_positions = 8192},
               {1.0f, 0.193922758f, 0.0376060307f, 0.00729266508f, 0.000524846022f, 3.42810235e-05f, 6.64786967e-06f,
                1.28917316e-06f},
               1.0f);
}

TEST(Rope, YarnDerivesAttentionFactor) {
  expect_table({.kind = RopeKind::yarn, .theta = 1e6, .factor = 4, .original_max_positions = 32768},
               {1.0f, 0.177827939f, 0.0316227786f, 0.00421755994f, 0.000500000024f, 4.44569851e-05f, 7.90569356e-06f,
                1.40585337e-06f},
               1.13862943649292f);
}

TEST(Rope, YarnWithMscaleAndWithoutTruncation) {
  expect_table({.kind = RopeKind::yarn,
                .factor = 40,
                .original_max_positions = 4096,
                .beta_fast = 24,
                .beta_slow = 2,
                .mscale = 1.0,
                .mscale_all_dim = 0.7,
                .truncate = false},
               {1.0f, 0.316227764f, 0.100000001f, 0.0297362674f, 0.0048861187f, 0.00011662647f, 2.49999994e-05f,
                7.90569447e-06f},
               1.0879546403884888f);
}

TEST(Rope, YarnWithGivenAttentionFactor) {
  expect_table({.kind = RopeKind::yarn, .factor = 8, .original_max_positions = 128, .attention_factor = 1.25},
               {1.0f, 0.223994657f, 0.0416666642f, 0.00395284733f, 0.00124999997f, 0.000395284733f, 0.000125000006f,
                3.95284733e-05f},
               1.25f);
}

}  // namespace
}  // namespace stepward
