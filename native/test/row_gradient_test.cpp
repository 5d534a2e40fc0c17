// Gradients that hold only some rows of a weight: a step with one is the step with the same gradient as a whole.
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/optimizer.h"
#include "helpers/tiny_model.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::gradient_of;
using testing::tiny_model;

class RowGradientStep : public ::testing::TestWithParam<std::tuple<const char*, double, double, at::ScalarType>> {};

TEST_P(RowGradientStep, MovesAllRowsAsTheWholeGradientDoes) {
  const auto& [kind, weight_decay, max_norm, dtype] = GetParam();
  at::NoGradGuard no_grad;
  at::manual_seed(3);
  // At most two rows a slab.
  const int64_t rows = 7, columns = 400000;
  const at::Tensor start = at::randn({rows, columns}).to(dtype);
  TrainerOptions options;
  options.optimizer = kind;
  options.weight_decay = weight_decay;
  options.max_grad_norm = max_norm;
  const std::vector<Parameter> some{{"w", start.clone()}}, whole{{"w", start.clone()}};
  Optimizer by_rows(some, options), as_a_whole(whole, options);
  // Ids as tokens come: in no order, one of them twice.
  for (const std::vector<int64_t>& ids : {std::vector<int64_t>{6, 1, 1}, {2}, {}, {0, 6}}) {
    const int64_t count = static_cast<int64_t>(ids.size());
    // Eighths: the sum of two is exact in any dtype, whichever of them it is made in.
    const at::Tensor index = at::tensor(ids, at::kLong),
                     values = ((at::randn({count, columns}) * 8).round() / 8).to(dtype);
    at::Tensor gradient = at::zeros({rows, columns}, dtype), weight = some[0].tensor, other = whole[0].tensor;
    gradient.index_add_(0, index, values);
    weight.mutable_grad() = at::sparse_coo_tensor(index.unsqueeze(0), values, {rows, columns});
    other.mutable_grad() = gradient;
    EXPECT_NEAR(by_rows.step(0.01), as_a_whole.step(0.01), 1e-3);
    EXPECT_FALSE(weight.grad().defined());
    EXPECT_LE((weight - other).abs().max().item<float>(), 4e-6f);
  }
  EXPECT_GT((some[0].tensor - start).abs().max().item<float>(), 1e-5f);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RowGradientStep,
                         ::testing::Values(std::tuple{"adamw", 0.0, 0.0, at::kFloat},
                                           std::tuple{"adamw", 0.1, 1.0, at::kFloat},
                                           std::tuple{"adamw", 0.1, 1.0, at::kBFloat16},
                                           std::tuple{"sgd", 0.0, 1.0, at::kFloat},
                                           std::tuple{"sgd", 0.1, 0.0, at::kFloat}));

PreferenceBatch pair_of(std::vector<int32_t> tokens) {
  PreferenceBatch batch;
  const auto length = static_cast<int32_t>(tokens.size());
  batch.forest = {std::move(tokens), {0, length - 2, length - 1, length}, {-1, 0, 0}};
  batch.completion_offsets = {0, 1, 2};
  batch.completion_segments = {1, 2};
  batch.chosen = {0};
  batch.rejected = {1};
  batch.reference = {-1.0, -1.0};
  batch.weight = {1.0f};
  batch.pair_norm = 1;
  return batch;
}

TEST(RowGradientStep, AnEmbeddingHasARowForEveryTokenThatOccurred) {
  const auto model = tiny_model();
  Trainer trainer(*model, {});
  trainer.accumulate(pair_of({5, 9, 5, 17, 2, 3}), CancelFlag());
  trainer.accumulate(pair_of({5, 40, 4, 6}), CancelFlag());
  const at::Tensor gradient = model->weights().at("model.embed_tokens.weight").grad();
  ASSERT_TRUE(gradient.is_sparse());
  // Leaves too: they predict nothing, and their rows are zeros.
  EXPECT_TRUE(gradient.indices()[0].equal(at::tensor({2, 3, 4, 5, 6, 9, 17, 40}, at::kLong)));
}

TEST(RowGradientStep, ATiedHeadMakesItWhole) {
  const auto model = tiny_model("llama", "\"tie_word_embeddings\": true");
  Trainer trainer(*model, {});
  trainer.accumulate(pair_of({5, 9, 17, 2, 3}), CancelFlag());
  const at::Tensor weight = model->weights().at("model.embed_tokens.weight"), once = gradient_of(weight);
  EXPECT_FALSE(weight.grad().is_sparse());
  trainer.accumulate(pair_of({5, 9, 17, 2, 3}), CancelFlag());
  EXPECT_LE((gradient_of(weight) - 2 * once).norm().item<float>(), 1e-6f * once.norm().item<float>());
}

}  // namespace
}  // namespace stepward
