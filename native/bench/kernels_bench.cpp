// Micro-benchmarks of the CPU kernels on one thread, one row at a time; "item" is a logit (a pair for the loss).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "kernels/logprob.h"
#include "kernels/preference_loss.h"
#include "kernels/row_ops.h"
#include "kernels/sampler.h"

namespace stepward::kernels {
namespace {

std::vector<float> normal_values(int64_t n, float deviation) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& x : values) x = normal(random);
  return values;
}

void count_items(benchmark::State& state, int64_t per_iteration) {
  state.SetItemsProcessed(state.iterations() * per_iteration);
  state.SetLabel(row_ops().name);
}

// Arguments: vocabulary, temperature and top-p in percent, top-k, standard deviation of the logits.
void sample_row(benchmark::State& state) {
  const int64_t vocab = state.range(0);
  const std::vector<float> logits = normal_values(vocab, static_cast<float>(state.range(4)));
  const SamplingParams params{static_cast<float>(state.range(1)) / 100, static_cast<int32_t>(state.range(3)),
                              static_cast<float>(state.range(2)) / 100, 0.0f, 1};
  SampleKey key{1, 2, 3, 0, 0};
  Sample out{};
  for (auto _ : state) {
    ++key.position;
    benchmark::DoNotOptimize(sample_rows_cpu(logits.data(), 1, vocab, vocab, &key, nullptr, 0, params, &out));
  }
  count_items(state, vocab);
}
BENCHMARK(sample_row)
    ->ArgNames({"vocab", "T", "p", "k", "deviation"})
    ->Args({50000, 0, 100, 0, 3})    // greedy
    ->Args({50000, 100, 100, 0, 1})  // nothing kept back, flat logits: the noise of every id is needed
    ->Args({50000, 100, 100, 0, 4})
    ->Args({50000, 50, 95, 0, 4})   // search's defaults
    ->Args({50000, 100, 95, 0, 1})  // a kept set of tens of thousands
    ->Args({50000, 100, 100, 50, 4})
    ->Args({152000, 50, 95, 0, 4});

void logprob_update(benchmark::State& state) {
  const int64_t rows = 16, cols = state.range(0);
  const std::vector<float> logits = normal_values(rows * cols, 3.0f);
  const std::vector<int32_t> targets(rows, 5);
  std::vector<float> max(rows), sum(rows), target(rows);
  for (auto _ : state) {
    std::fill(max.begin(), max.end(), -std::numeric_limits<float>::infinity());
    std::fill(sum.begin(), sum.end(), 0.0f);
    logprob_update_cpu({logits.data(), rows, cols, cols, 0}, targets.data(), max.data(), sum.data(), target.data());
    benchmark::DoNotOptimize(sum.data());
  }
  count_items(state, rows * cols);
}
BENCHMARK(logprob_update)->Arg(4096)->Arg(50000);

void logprob_backward(benchmark::State& state) {
  const int64_t rows = 16, cols = state.range(0);
  std::vector<float> logits(static_cast<size_t>(rows * cols), -1.0f);
  const std::vector<int32_t> targets(rows, 5);
  const std::vector<float> lse(rows, 0.5f), grad(rows, 0.3f);
  for (auto _ : state) {
    logprob_backward_cpu(logits.data(), {logits.data(), rows, cols, cols, 0}, targets.data(), lse.data(), grad.data());
    benchmark::DoNotOptimize(logits.data());
  }
  count_items(state, rows * cols);
}
BENCHMARK(logprob_backward)->Arg(4096)->Arg(50000);

void preference_loss(benchmark::State& state) {
  const int64_t pairs = 1024;
  const std::vector<float> values = normal_values(pairs, 5.0f), weight(pairs, 1.0f);
  const std::vector<double> chosen(values.begin(), values.end()), rejected(pairs, -3.0), reference(pairs, 0.0);
  std::vector<double> loss(pairs), grad_chosen(pairs), grad_rejected(pairs);
  for (auto _ : state) {
    preference_loss_cpu(
        {pairs, chosen.data(), rejected.data(), reference.data(), reference.data(), weight.data(), nullptr, nullptr},
        {PreferenceLossKind::sigmoid, 0.1f, 0.0f}, {loss.data(), grad_chosen.data(), grad_rejected.data()});
    benchmark::DoNotOptimize(loss.data());
  }
  count_items(state, pairs);
}
BENCHMARK(preference_loss);

}  // namespace
}  // namespace stepward::kernels
