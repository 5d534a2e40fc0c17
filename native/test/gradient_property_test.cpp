// Gradients of random forests against plain float64 autograd on unpacked pairs: deep and wide trees, uneven and empty
// segments, empty trunks, siblings that begin with the same tokens, several trees at once, for every family, full and
// LoRA, with and without checkpoints and accumulation, for every loss. Fresh seeds every run; a failure names its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <random>

#include <ATen/ATen.h>

#include "core/lora.h"
#include "helpers/plain_model.h"
#include "helpers/tiny_model.h"
#include "stepward/trainer.h"

namespace stepward {
namespace {

using testing::PlainModel;

uint32_t fresh_seed() {
  const char* given = std::getenv("STEPWARD_TEST_SEED");
  return given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10)) : std::random_device()();
}

struct Case {
  PreferenceBatch batch;
  std::vector<std::vector<int32_t>> tokens;  // [completions] the whole path
  std::vector<int64_t> from;                 // first token of the completion
};

// The first token of a sequence has no context to be scored in.
double scored_tokens(const Case& c, int32_t completion) {
  return static_cast<double>(c.tokens[completion].size()) -
         static_cast<double>(std::max<int64_t>(1, c.from[completion]));
}

class Generator {
 public:
  explicit Generator(uint32_t seed) : random_(seed) {}

  int below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  // A trunk of steps, each with siblings below the one before it.
  Case make() {
    Case result;
    Forest& forest = result.batch.forest;
    forest.offsets = {0};
    result.batch.completion_offsets = {0};
    const int trees = 1 + below(3);
    for (int t = 0; t < trees; ++t) add_tree(result);
    const size_t pairs = result.batch.chosen.size();
    result.batch.pair_norm = static_cast<double>(pairs);
    for (size_t p = 0; p < pairs; ++p) result.batch.weight.push_back(below(5) == 0 ? 0.0f : 0.5f + 0.25f * below(4));
    for (size_t c = 0; c < result.tokens.size(); ++c) result.batch.reference.push_back(-3.0f - below(20));
    result.batch.beta = 0.2f;
    add_loss(result);
    return result;
  }

 private:
  void add_loss(Case& c) {
    PreferenceBatch& batch = c.batch;
    batch.loss = std::array{"sigmoid", "ipo", "hinge", "robust", "sigmoid_norm", "simpo"}[below(6)];
    const bool smooths = batch.loss == "sigmoid" || batch.loss == "robust" || batch.loss == "simpo";
    if (smooths && below(2) == 0) batch.label_smoothing = 0.1f;
    if (batch.loss == "simpo") batch.gamma = 0.25f * below(3);
    if (below(3) == 0) {
      for (size_t p = 0; p < batch.chosen.size(); ++p) batch.mix.push_back(0.25f * below(5));
    }
    if (below(3) == 0) {
      batch.sft_weight = 0.5f;
      for (const int32_t w : batch.chosen) batch.token_norm += scored_tokens(c, w);
    }
  }

  int32_t segment(Forest& forest, int32_t parent, int length, int32_t first_token = -1) {
    for (int i = 0; i < length; ++i) forest.tokens.push_back(i == 0 && first_token >= 0 ? first_token : below(61));
    forest.offsets.push_back(static_cast<int32_t>(forest.tokens.size()));
    forest.parents.push_back(parent);
    return static_cast<int32_t>(forest.num_segments()) - 1;
  }

  // A completion of one segment, or of two with a cut between them. Returns its number and its last segment.
  std::pair<int32_t, int32_t> completion(Case& c, int32_t parent, int length, int32_t first_token) {
    PreferenceBatch& batch = c.batch;
    const int32_t above = segment(batch.forest, parent, length, first_token);
    batch.completion_segments.push_back(above);
    int32_t last = above;
    if (below(3) == 0) {
      last = segment(batch.forest, above, below(4));
      batch.completion_segments.push_back(last);
    }
    batch.completion_offsets.push_back(static_cast<int32_t>(batch.completion_segments.size()));
    c.tokens.push_back(testing::path_tokens(batch.forest, last));
    c.from.push_back(static_cast<int64_t>(testing::path_tokens(batch.forest, parent).size()));
    return {static_cast<int32_t>(c.tokens.size()) - 1, last};
  }

  void add_tree(Case& c) {
    // An empty root, the whole context empty: then each branch's first token is a token of the root's, unscored.
    const int trunk = below(4) == 0 ? 1 : 1 + below(below(2) == 0 ? 80 : 8);
    int32_t at = segment(c.batch.forest, -1, below(5) == 0 ? 0 : trunk);
    if (c.batch.forest.offsets.back() == c.batch.forest.offsets[at]) at = segment(c.batch.forest, at, trunk);
    const int depth = below(4) == 0 ? 20 : 1 + below(4), width = 1 + below(depth > 4 ? 2 : 8);
    for (int step = 0; step < depth; ++step) {
      const int32_t first_token = below(2) == 0 ? below(61) : -1;  // siblings may begin alike and yet not be merged
      const auto [chosen, next] = completion(c, at, 1 + below(9), first_token);
      for (int w = 0; w < width; ++w) {
        const auto [rejected, end] = completion(c, at, 1 + below(below(6) == 0 ? 50 : 9), first_token);
        c.batch.chosen.push_back(chosen);
        c.batch.rejected.push_back(rejected);
      }
      at = next;
    }
  }

  std::mt19937 random_;
};

// The loss of a pair whose log-ratios (simpo: log-probs), per token where the loss takes them so, differ by
// `difference`.
at::Tensor oracle_pair(const PreferenceBatch& batch, const at::Tensor& difference) {
  const double beta = batch.beta, smoothing = batch.label_smoothing;
  const at::Tensor margin = beta * difference - (batch.loss == "simpo" ? batch.gamma : 0.0f);
  if (batch.loss == "ipo") return (difference - 1 / (2 * beta)).square();
  if (batch.loss == "hinge") return at::relu(1 - margin);
  const at::Tensor right = -(1 - smoothing) * at::log_sigmoid(margin), wrong = -smoothing * at::log_sigmoid(-margin);
  if (batch.loss == "robust") return (right - wrong) / (1 - 2 * smoothing);
  return right + wrong;
}

at::Tensor oracle_loss(PlainModel& plain, const Case& c) {
  const PreferenceBatch& batch = c.batch;
  const bool per_token = batch.loss == "ipo" || batch.loss == "sigmoid_norm" || batch.loss == "simpo";
  std::vector<at::Tensor> logprobs, scores;
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    logprobs.push_back(plain.logprob(c.tokens[i], c.from[i]));
    const double reference = batch.loss == "simpo" ? 0 : batch.reference[i];
    const double tokens = per_token ? std::max(1.0, scored_tokens(c, static_cast<int32_t>(i))) : 1.0;
    scores.push_back((logprobs[i] - reference) / tokens);
  }
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (size_t p = 0; p < batch.chosen.size(); ++p) {
    const int32_t w = batch.chosen[p], l = batch.rejected[p];
    const double weight = batch.weight[p], mix = batch.mix.empty() ? 1.0 : batch.mix[p];
    const at::Tensor difference = scores[w] - scores[l];
    loss = loss + (mix * oracle_pair(batch, difference) + (1 - mix) * oracle_pair(batch, -difference)) * weight /
                      batch.pair_norm;
    if (batch.sft_weight > 0) loss = loss - batch.sft_weight * weight * logprobs[w] / batch.token_norm;
  }
  return loss;
}

// The pairs of a batch in `parts` batches over the same forest.
std::vector<PreferenceBatch> split(const PreferenceBatch& whole, size_t parts) {
  std::vector<PreferenceBatch> out(parts, whole);
  for (PreferenceBatch& part : out) part.chosen = part.rejected = {}, part.weight = part.mix = {};
  for (size_t p = 0; p < whole.chosen.size(); ++p) {
    PreferenceBatch& part = out[p % parts];
    part.chosen.push_back(whole.chosen[p]);
    part.rejected.push_back(whole.rejected[p]);
    part.weight.push_back(whole.weight[p]);
    if (!whole.mix.empty()) part.mix.push_back(whole.mix[p]);
  }
  std::erase_if(out, [](const PreferenceBatch& part) { return part.chosen.empty(); });
  return out;
}

std::map<std::string, at::Tensor> trained(const Model& model, bool lora) {
  std::map<std::string, at::Tensor> tensors;
  if (!lora) {
    for (const auto& [name, tensor] : model.weights()) tensors[name] = tensor;
    return tensors;
  }
  each_linear(model, [&](const std::string& name, const Linear& linear) {
    if (!linear.lora) return;
    tensors[name + ".lora_a"] = linear.lora->a;
    tensors[name + ".lora_b"] = linear.lora->b;
  });
  return tensors;
}

struct Variant {
  const char *name, *family, *extra;
};

class GradientProperty : public ::testing::TestWithParam<Variant> {};

TEST_P(GradientProperty, RandomForestsEqualUnpackedAutograd) {
  for (const bool lora : {false, true}) {
    for (int round = 0; round < 4; ++round) {
      const uint32_t seed = fresh_seed();
      SCOPED_TRACE(::testing::Message() << "STEPWARD_TEST_SEED=" << seed << (lora ? " lora" : " full"));
      Generator generator(seed);
      const std::string extra = GetParam().extra;
      const auto model = testing::tiny_model(
          GetParam().family, "\"max_position_embeddings\": 512" + (extra.empty() ? extra : ", " + extra), seed);
      TrainerOptions options;
      options.checkpoint_layers = round % 2 == 1;
      if (lora) options.lora = {3, 6, {"all-linear"}, seed};
      if (lora && round >= 2 && !model->config().tie_word_embeddings) options.lora.targets.push_back("lm_head");
      Trainer trainer(*model, options);
      if (lora) {
        // Adapters begin with B = 0, where A has no gradient.
        at::NoGradGuard no_grad;
        at::manual_seed(seed);
        for (auto& [name, tensor] : trained(*model, true)) {
          if (name.ends_with("lora_b")) tensor.normal_(0, 0.1);
        }
      }
      const Case c = generator.make();
      SCOPED_TRACE(c.batch.loss + (c.batch.mix.empty() ? "" : ", mixed"));
      double loss = 0;
      for (const PreferenceBatch& part : split(c.batch, round < 2 ? 1 : 3)) loss += trainer.accumulate(part, {}).loss;

      PlainModel plain(*model);
      at::AutoGradMode with_grad(true);
      const at::Tensor expected = oracle_loss(plain, c);
      expected.backward();
      EXPECT_NEAR(loss, expected.item<double>(), 1e-5 * std::max(1.0, expected.item<double>()));

      double total = 0;
      const auto tensors = trained(*model, lora);
      for (const auto& [name, tensor] : tensors) {
        const at::Tensor& grad = plain.leaves().at(name).grad();
        if (grad.defined()) total += grad.norm().item<double>();
      }
      // Where terms cancel almost wholly (key biases: a softmax does not see what all keys share) what is left is
      // rounding of what has gone: such a tensor is measured against a hundredth of the tensors' mean norm.
      const double floor = 1e-2 * total / static_cast<double>(tensors.size());
      for (const auto& [name, tensor] : tensors) {
        const at::Tensor& grad = plain.leaves().at(name).grad();
        const at::Tensor want = grad.defined() ? grad : at::zeros_like(tensor, at::kDouble);
        const at::Tensor got = testing::gradient_of(tensor).to(at::kDouble);
        EXPECT_LE((got - want).norm().item<double>(), 1e-5 * std::max(want.norm().item<double>(), floor))
            << name << " of norm " << want.norm().item<double>();
      }
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GradientProperty,
                         ::testing::Values(Variant{"llama", "llama", ""},
                                           Variant{"tied", "llama", "\"tie_word_embeddings\": true"},
                                           Variant{"mistral", "mistral", "\"sliding_window\": 20"},
                                           Variant{"qwen2", "qwen2", ""},
                                           Variant{"qwen3", "qwen3", "\"head_dim\": 16"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace stepward
