// A packed forest gives every path what that path gives alone; scoring agrees with a full log-softmax.
#include <gtest/gtest.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "core/tensors.h"
#include "helpers/tiny_model.h"
#include "stepward/score.h"

namespace stepward {
namespace {

using testing::path_tokens;
using testing::random_forest;
using testing::tiny_model;

struct Variant {
  const char *family, *extra;
};
class ForwardTest : public ::testing::TestWithParam<Variant> {};

TEST_P(ForwardTest, ForestEqualsEveryPathAlone) {
  at::NoGradGuard no_grad;
  const auto model = tiny_model(GetParam().family, GetParam().extra);
  std::mt19937 random(11);
  for (int round = 0; round < 8; ++round) {
    const Forest forest = random_forest(random, 1 + round, 1 + 2 * (round % 4));
    const std::vector<float> packed =
        testing::forward_logprobs(*model, forest, std::vector<uint8_t>(forest.num_segments(), 1));
    for (int32_t s = 0; s < forest.num_segments(); ++s) {
      const std::vector<int32_t> tokens = path_tokens(forest, s);
      const int64_t own = forest.offsets[s + 1] - forest.offsets[s];
      if (own == 0) continue;
      const Forest alone = testing::chain(tokens);
      const at::Tensor logits = at::linear(model->forward(alone, pack_forest(alone)), model->head());
      const std::vector<float> expected = to_floats(at::log_softmax(logits, 1));
      for (int64_t i = 0; i < own; ++i) {
        const int64_t at = static_cast<int64_t>(tokens.size()) - own + i;
        const float got = packed[forest.offsets[s] + i];
        if (at == 0) {
          EXPECT_TRUE(std::isnan(got));  // nothing predicts a root's first token
        } else {
          EXPECT_NEAR(got, expected[(at - 1) * 61 + tokens[at]], 2e-5) << "segment " << s << " token " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, ForwardTest,
    ::testing::Values(Variant{"llama", ""},
                      Variant{"llama", "\"attention_bias\": true, \"mlp_bias\": true, \"tie_word_embeddings\": true"},
                      Variant{"mistral", "\"sliding_window\": 4"}, Variant{"qwen2", ""},
                      Variant{"qwen3", "\"head_dim\": 16"}));

TEST(Forward, SlidingWindowBites) {
  at::NoGradGuard no_grad;
  const Forest forest = testing::chain({5, 9, 33, 2, 7, 8, 1, 0, 44, 21});
  const std::vector<uint8_t> scored = {1};
  const auto full = testing::forward_logprobs(*tiny_model("mistral", "\"sliding_window\": null"), forest, scored);
  const auto window = testing::forward_logprobs(*tiny_model("mistral", "\"sliding_window\": 4"), forest, scored);
  EXPECT_NEAR(full[3], window[3], 1e-6);
  EXPECT_GT(std::abs(full[9] - window[9]), 1e-3);
}

TEST(SelectedLogprobs, ValueAndGradientsEqualAutogradAcrossVocabularyBlocks) {
  const int64_t vocab = 9001;  // three blocks
  at::Tensor hidden = at::randn({37, 24}).set_requires_grad(true),
             weight = (at::randn({vocab, 24}) * 0.3).set_requires_grad(true);
  const at::Tensor targets = at::randint(vocab, {37}, at::kLong), grad = at::randn({37});
  at::AutoGradMode with_grad(true);
  const at::Tensor expected = at::log_softmax(at::linear(hidden, weight), 1).gather(1, targets.unsqueeze(1)).squeeze(1);
  const at::Tensor got = selected_logprobs(hidden, weight, targets);
  EXPECT_LT((got - expected).abs().max().item<float>(), 2e-5);
  expected.backward(grad);
  const at::Tensor hidden_grad = hidden.grad().clone(), weight_grad = weight.grad().clone();
  hidden.mutable_grad() = at::Tensor();
  weight.mutable_grad() = at::Tensor();
  got.backward(grad);
  EXPECT_LT(((hidden.grad() - hidden_grad).norm() / hidden_grad.norm()).item<float>(), 1e-5);
  EXPECT_LT(((weight.grad() - weight_grad).norm() / weight_grad.norm()).item<float>(), 1e-5);
}

}  // namespace
}  // namespace stepward
