// The CUDA kernels against their CPU twins on the same inputs. Skipped where the build or the machine has no CUDA.
#include <gtest/gtest.h>

#ifdef STEPWARD_CUDA

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "helpers/on_device.h"
#include "helpers/sampler_reference.h"
#include "kernels/logprob.h"
#include "kernels/preference_loss.h"

namespace stepward::kernels {
namespace {

using reference::normal_logits;
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Rows {
  int64_t rows, vocab, stride;
  std::vector<float> logits;
  std::vector<SampleKey> keys;
  std::vector<int32_t> barred;

  Rows(int64_t r, int64_t v, double deviation) : rows(r), vocab(v), stride(v + 3) {
    logits = normal_logits(static_cast<size_t>(rows * stride), deviation, static_cast<uint32_t>(vocab));
    for (uint32_t i = 0; i < rows; ++i) keys.push_back({i * 31u + 5, i, i % 3, i + 9, i % 2});
    barred = {0, static_cast<int32_t>(vocab / 2)};
  }
};

void expect_same_samples(const Rows& in, const SamplingParams& params) {
  std::vector<Sample> expected(static_cast<size_t>(in.rows));
  const auto num_barred = static_cast<int64_t>(in.barred.size());
  ASSERT_EQ(sample_rows_cpu(in.logits.data(), in.rows, in.vocab, in.stride, in.keys.data(), in.barred.data(),
                            num_barred, params, expected.data()),
            -1);
  const OnDevice<float> logits(in.logits);
  const OnDevice<SampleKey> keys(in.keys);
  const OnDevice<int32_t> barred(in.barred);
  const OnDevice<Sample> out(std::vector<Sample>(expected.size()));
  const OnDevice<int64_t> bad(std::vector<int64_t>{55});
  sample_rows_cuda(logits.get(), in.rows, in.vocab, in.stride, keys.get(), barred.get(), num_barred, params, out.get(),
                   bad.get(), nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(bad.host()[0], -1);
  const std::vector<Sample> got = out.host();
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].id, expected[i].id) << "row " << i;
    EXPECT_EQ(got[i].logprob, expected[i].logprob) << "row " << i;
    EXPECT_EQ(got[i].sampling_logprob, expected[i].sampling_logprob) << "row " << i;
    EXPECT_EQ(got[i].log_kept, expected[i].log_kept) << "row " << i;
  }
}

TEST_F(CudaTwins, SamplerDrawsTheSameIds) {
  for (const int64_t vocab : {2, 5, 1003, 4096}) {
    for (const double deviation : {0.5, 6.0}) {
      Rows in(4, vocab, deviation);
      if (vocab < 5) in.barred.pop_back();
      for (const float temperature : {0.0f, 0.6f, 1.0f}) {
        for (const int32_t top_k : {0, 1, 40}) {
          for (const float top_p : {1.0f, 0.95f, 0.3f}) {
            for (const float min_p : {0.0f, 1e-30f, 1e-5f, 0.1f}) {
              SCOPED_TRACE(testing::Message() << "vocab " << vocab << " T " << temperature << " k " << top_k << " p "
                                              << top_p << " min-p " << min_p);
              expect_same_samples(in, {temperature, top_k, top_p, min_p, 77});
            }
          }
        }
      }
    }
  }
}

TEST_F(CudaTwins, SamplerReportsTheFirstBadRow) {
  Rows in(5, 300, 1.0);
  in.logits[static_cast<size_t>(4 * in.stride + 299)] = kInf;
  in.logits[static_cast<size_t>(2 * in.stride + 7)] = std::numeric_limits<float>::quiet_NaN();
  const OnDevice<float> logits(in.logits);
  const OnDevice<SampleKey> keys(in.keys);
  const OnDevice<Sample> out(std::vector<Sample>(5));
  const OnDevice<int64_t> bad(std::vector<int64_t>{55});
  sample_rows_cuda(logits.get(), 5, 300, in.stride, keys.get(), nullptr, 0, {1.0f, 0, 1.0f, 0.0f, 1}, out.get(),
                   bad.get(), nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(bad.host()[0], 2);
}

TEST_F(CudaTwins, LogprobFoldsBlocksTheSameWay) {
  const int64_t rows = 3, cols = 1003, cut = 301;
  std::vector<float> host = normal_logits(static_cast<size_t>(rows * cols), 4.0, 1);
  for (int64_t c = 0; c < cut; ++c) host[static_cast<size_t>(cols + c)] = -kInf;
  const std::vector<int32_t> host_targets{5, 900, 301};
  std::vector<float> max(3, -kInf), sum(3, 0.0f), target(3, 0.0f), weighted(3, 0.0f);
  const OnDevice<float> logits(host), device_max(max), device_sum(sum), device_target(target),
      device_weighted(weighted);
  const OnDevice<int32_t> targets(host_targets);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, cut}, {cut, cols}}) {
    logprob_update_cpu({host.data() + begin, rows, end - begin, cols, begin}, host_targets.data(), max.data(),
                       sum.data(), target.data(), weighted.data());
    logprob_update_cuda({logits.get() + begin, rows, end - begin, cols, begin}, targets.get(), device_max.get(),
                        device_sum.get(), device_target.get(), device_weighted.get(), nullptr);
  }
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(device_max.host(), max);
  EXPECT_EQ(device_target.host(), target);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(device_sum.host()[i] / sum[i], 1.0, 1e-6);
    EXPECT_NEAR(device_weighted.host()[i], weighted[i], 1e-4 * sum[i]);
  }

  const std::vector<float> lse{max[0] + std::log(sum[0]), max[1] + std::log(sum[1]), max[2] + std::log(sum[2])};
  const std::vector<float> grad{0.5f, -2.0f, 0.0f};
  const OnDevice<float> device_lse(lse), device_grad(grad);
  logprob_backward_cpu(host.data(), {host.data(), rows, cols, cols, 0}, host_targets.data(), lse.data(), grad.data());
  logprob_backward_cuda(logits.get(), {logits.get(), rows, cols, cols, 0}, targets.get(), device_lse.get(),
                        device_grad.get(), nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(logits.host(), host);
}

TEST_F(CudaTwins, PreferenceLossAgrees) {
  const size_t pairs = 300;
  const auto doubles = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  const std::vector<double> a = doubles(normal_logits(pairs, 5.0, 2)), b = doubles(normal_logits(pairs, 5.0, 3)),
                            c = doubles(normal_logits(pairs, 5.0, 4)), d = doubles(normal_logits(pairs, 5.0, 5));
  const std::vector<float> w = normal_logits(pairs, 1.0, 6);
  std::vector<float> mix;
  for (size_t i = 0; i < pairs; ++i) mix.push_back(static_cast<float>(i % 5) / 4);
  std::vector<int32_t> chosen_length, rejected_length;
  for (size_t i = 0; i < pairs; ++i) {
    chosen_length.push_back(static_cast<int32_t>(i % 9));
    rejected_length.push_back(static_cast<int32_t>(i % 5));
  }
  const OnDevice<double> da(a), db(b), dc(c), dd(d);
  const OnDevice<float> dw(w), dm(mix);
  const OnDevice<int32_t> dcl(chosen_length), drl(rejected_length);
  for (const bool mixed : {false, true}) {
    for (int kind = 0; kind <= 5; ++kind) {
      const PreferenceLossParams params{static_cast<PreferenceLossKind>(kind), 0.3f,
                                        kind == 0 || kind == 3 || kind == 5 ? 0.1f : 0.0f, 0.5f};
      std::vector<double> loss(pairs), grad_chosen(pairs), grad_rejected(pairs);
      const OnDevice<double> dl(loss), dgc(grad_chosen), dgr(grad_rejected);
      preference_loss_cpu({static_cast<int64_t>(pairs), a.data(), b.data(), c.data(), d.data(), w.data(),
                           chosen_length.data(), rejected_length.data(), mixed ? mix.data() : nullptr},
                          params, {loss.data(), grad_chosen.data(), grad_rejected.data()});
      preference_loss_cuda({static_cast<int64_t>(pairs), da.get(), db.get(), dc.get(), dd.get(), dw.get(), dcl.get(),
                            drl.get(), mixed ? dm.get() : nullptr},
                           params, {dl.get(), dgc.get(), dgr.get()}, nullptr);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const std::vector<double> got_loss = dl.host(), got_chosen = dgc.host(), got_rejected = dgr.host();
      for (size_t i = 0; i < pairs; ++i) {
        EXPECT_NEAR(got_loss[i], loss[i], 1e-12 * std::max(1.0, std::abs(loss[i]))) << kind;
        EXPECT_NEAR(got_chosen[i], grad_chosen[i], 1e-12 * std::max(1.0, std::abs(grad_chosen[i]))) << kind;
        EXPECT_NEAR(got_rejected[i], grad_rejected[i], 1e-12 * std::max(1.0, std::abs(grad_rejected[i]))) << kind;
      }
    }
  }
}

}  // namespace
}  // namespace stepward::kernels

#else

TEST(CudaTwins, NeedACudaBuild) {
  GTEST_SKIP() << "built without CUDA";
}

#endif
