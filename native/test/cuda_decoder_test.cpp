// The decoder on CUDA against the one on the CPU, on the same plans. Skipped where build or machine have no CUDA.
#include <gtest/gtest.h>

#ifdef STEPWARD_CUDA

#include <deque>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/rollout/decoder.h"
#include "helpers/on_device.h"
#include "helpers/temp_dir.h"
#include "kernels/segment_attention.h"
#include "stepward/model.h"

namespace stepward {
namespace {

using CudaDecoder = kernels::CudaTwins;

// One tree of segments run through both decoders: a prompt of two chunks, siblings, then decode steps of one shape,
// which is captured when it comes for the third time.
class TwoDecoders {
 public:
  // `dtype` is that of the CUDA model; the one on the CPU has the same weights in float32.
  explicit TwoDecoders(const std::string& family, const std::string& extra = "", const std::string& dtype = "float32")
      : exact_(dtype == "float32") {
    const testing::TempDir folder;
    folder.write(
        "config.json",
        "{\"model_type\": \"" + family +
            "\", \"vocab_size\": 61, \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 2, "
            "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 20, "
            "\"max_position_embeddings\": 1024, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
            "\"hidden_act\": \"silu\", \"initializer_range\": 0.2, \"tie_word_embeddings\": false" +
            extra + "}");
    ModelOptions options{.directory = folder.path(), .device = "cpu", .dtype = "float32", .init_seed = 1};
    cpu_model_ = Model::load(options);
    options.device = "cuda";
    options.dtype = dtype;
    cuda_model_ = Model::load(options);
    for (LayerWeights& w : cuda_model_->layers()) {
      if (w.q.bias.defined()) w.q.bias.fill_(0.3);
      if (w.k.bias.defined()) w.k.bias.fill_(-0.2);
      if (w.v.bias.defined()) w.v.bias.fill_(0.5);
    }
    const TensorMap weights = cuda_model_->weights();
    for (auto& [name, tensor] : cpu_model_->weights()) tensor.copy_(weights.at(name));
    decoders_[0] = make_cpu_decoder(*cpu_model_);
    decoders_[1] = make_cuda_decoder(*cuda_model_);
    for (const auto& decoder : decoders_) decoder->load_weights();
    const std::vector<int64_t>& window = cpu_model_->config().window;
    const std::set<int64_t> distinct(window.begin(), window.end());
    windows_.assign(distinct.begin(), distinct.end());
  }

  Segment* add(Segment* parent, int64_t tokens) {
    Segment& segment = segments_.emplace_back();
    segment.parent = parent;
    segment.start = parent == nullptr ? 0 : parent->end();
    grow(&segment, tokens);
    return &segment;
  }
  void grow(Segment* segment, int64_t tokens) {
    for (int64_t i = 0; i < tokens; ++i) segment->tokens.push_back(static_cast<int32_t>(random_() % 61));
    reserve(segment, segment->length());
  }
  void reserve(Segment* segment, int64_t tokens) {
    while (static_cast<int64_t>(segment->blocks.size()) * kernels::kBlockTokens < tokens) {
      segment->blocks.push_back(next_block_++);
    }
  }

  void run(std::vector<StepSpan> spans) {
    for (StepSpan& span : spans) span.scored = true;
    const StepPlan plan = plan_step(spans, decoders_[1]->sharing_threshold(), windows_);
    for (const auto& decoder : decoders_) decoder->run(plan);
    std::vector<LogprobQuery> queries;
    for (int64_t r = 0; r < plan.num_rows(); ++r) queries.push_back({{false, r}, {0, 17, 60}});
    compare(queries);
  }
  void compare(const std::vector<LogprobQuery>& queries) {
    kernels::expect_near(decoders_[1]->logprobs(queries), decoders_[0]->logprobs(queries), exact_ ? 1e-4 : 0.02);
  }
  int32_t store(int64_t row) {
    const int32_t slot = decoders_[0]->store_hidden(row);
    EXPECT_EQ(decoders_[1]->store_hidden(row), slot);
    return slot;
  }
  void draw(const std::vector<DrawQuery>& queries) {
    std::vector<DrawQuery> expected = queries, got = queries;
    decoders_[0]->draw(expected);
    decoders_[1]->draw(got);
    for (size_t i = 0; i < queries.size(); ++i) {
      EXPECT_FALSE(got[i].bad);
      if (!exact_) continue;  // the last bits of a logit may decide a draw
      EXPECT_EQ(got[i].sample.id, expected[i].sample.id) << "draw " << i;
      EXPECT_NEAR(got[i].sample.logprob, expected[i].sample.logprob, 1e-4) << "draw " << i;
    }
  }
  // Greedy steps of the segments' rows, each fed with what the one before drew.
  void run_ahead(const std::vector<Segment*>& open, int64_t count) {
    static const kernels::SamplingParams greedy{0.0f, 0, 1.0f, 0.0f, 7};
    static const std::vector<int32_t> none;
    std::vector<DecodeStep> steps[2];
    for (Segment* segment : open) {
      grow(segment, 1);
      reserve(segment, segment->length() + count - 1);
    }
    for (int side = 0; side < 2; ++side) {
      const auto decoding = decoders_[side]->decode_run();
      steps[side].resize(count);
      for (int64_t s = 0; s < count; ++s) {
        std::vector<StepSpan> spans;
        for (Segment* segment : open) {
          const int64_t at = segment->length() - 1 + s;
          steps[side][s].draws.push_back({{false, static_cast<int64_t>(spans.size())}, {}, &greedy, &none});
          spans.push_back({segment, at, at + 1});
        }
        steps[side][s].plan = plan_step(spans, decoders_[1]->sharing_threshold(), windows_);
        decoding->step(steps[side][s]);
      }
      decoding->collect();
    }
    for (int64_t s = 0; exact_ && s < count; ++s) {
      for (size_t r = 0; r < open.size(); ++r) {
        const DrawQuery &got = steps[1][s].draws[r], &expected = steps[0][s].draws[r];
        EXPECT_FALSE(got.bad);
        EXPECT_EQ(got.sample.id, expected.sample.id) << "step " << s << ", row " << r;
        EXPECT_NEAR(got.sample.logprob, expected.sample.logprob, 1e-4) << "step " << s << ", row " << r;
      }
    }
  }
  void reload() {
    for (const auto& decoder : decoders_) {
      decoder->release_memory();
      decoder->load_weights();
    }
  }

 private:
  const bool exact_;
  std::unique_ptr<Model> cpu_model_, cuda_model_;
  std::unique_ptr<Decoder> decoders_[2];
  std::vector<int64_t> windows_;
  std::deque<Segment> segments_;
  int32_t next_block_ = 0;
  std::mt19937 random_{3};
};

void expect_same_steps(TwoDecoders&& both) {
  Segment* root = both.add(nullptr, 300);
  Segment *left = both.add(root, 40), *right = both.add(root, 5);
  both.run({{root, 0, 300}, {left, 0, 40}, {right, 0, 5}});  // too many rows to be padded
  const int64_t slot = both.store(339);
  both.compare({{{true, slot}, {1, 2}}, {{false, 3}, {5}}, {{true, slot}, {}}});

  std::vector<Segment*> open{both.add(left, 0), both.add(left, 0), both.add(right, 0)};
  const std::vector<int32_t> none, barred{3, 11};
  const kernels::SamplingParams sampled{0.9f, 0, 0.95f, 0.0f, 7}, greedy{0.0f, 0, 1.0f, 0.0f, 7};
  for (int64_t token = 0; token < 5; ++token) {
    std::vector<StepSpan> spans;
    for (Segment* segment : open) {
      both.grow(segment, 1);
      spans.push_back({segment, token, token + 1});
    }
    both.run(spans);
    std::vector<DrawQuery> queries;
    for (uint32_t i = 0; i < 3; ++i) {
      queries.push_back({{false, i}, {5, 1, i, static_cast<uint32_t>(token), 1}, &sampled, &barred});
      queries.push_back({{true, slot}, {6, 1, i, static_cast<uint32_t>(token), 0}, i < 2 ? &sampled : &greedy, &none});
    }
    both.draw(queries);
  }

  both.run_ahead(open, 6);

  both.reload();
  Segment* again = both.add(nullptr, 3);
  both.run({{again, 0, 3}});
}

TEST_F(CudaDecoder, Agrees) {
  expect_same_steps(TwoDecoders("llama"));
}

TEST_F(CudaDecoder, AgreesWithBiases) {
  expect_same_steps(TwoDecoders("qwen2"));
}

TEST_F(CudaDecoder, AgreesWithNormsOfQueriesAndKeys) {
  expect_same_steps(TwoDecoders("qwen3"));
}

TEST_F(CudaDecoder, AgreesWithSlidingWindows) {
  expect_same_steps(TwoDecoders("mistral", ", \"sliding_window\": 50"));
  expect_same_steps(TwoDecoders("qwen2",
                                ", \"use_sliding_window\": true, \"sliding_window\": 270, "
                                "\"max_window_layers\": 1"));
}

TEST_F(CudaDecoder, AgreesInBfloat16) {
  expect_same_steps(TwoDecoders("qwen3", "", "bfloat16"));
}

}  // namespace
}  // namespace stepward

#else

TEST(CudaDecoder, NeedACudaBuild) {
  GTEST_SKIP() << "built without CUDA";
}

#endif
