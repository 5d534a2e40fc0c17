// The sampler written the slow and obvious way, in double with a sort: what sampler.h is tested against.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "kernels/philox.h"
#include "kernels/sampler.h"

namespace stepward::kernels::reference {

struct Result {
  std::set<int32_t> kept;
  int32_t id = -1;
  double logprob = 0, sampling_logprob = 0, log_kept = 0;
};

inline double log_sum_exp(const std::vector<double>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

inline Result sample(const std::vector<float>& logits, const SampleKey& key, const std::vector<int32_t>& barred,
                     const SamplingParams& params) {
  std::vector<int32_t> open;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    const bool out = key.bar != 0 && std::count(barred.begin(), barred.end(), id) > 0;
    if (!out && !std::isinf(logits[static_cast<size_t>(id)])) open.push_back(id);
  }
  const auto logit = [&](int32_t id) { return static_cast<double>(logits[static_cast<size_t>(id)]); };
  std::stable_sort(open.begin(), open.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });

  Result r;
  const std::vector<double> raw(logits.begin(), logits.end());
  if (params.temperature == 0.0f) {
    r.id = open.front();
    r.logprob = logit(r.id) - log_sum_exp(raw);
    return r;
  }
  const auto scaled = [&](const std::vector<int32_t>& ids) {
    std::vector<double> x;
    for (const int32_t id : ids) x.push_back(logit(id) / params.temperature);
    return x;
  };
  std::vector<int32_t> kept = open;
  if (params.top_k > 0 && params.top_k < static_cast<int32_t>(kept.size())) {
    const double least = logit(kept[static_cast<size_t>(params.top_k) - 1]);
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](int32_t id) { return logit(id) < least; }), kept.end());
  }
  if (params.top_p < 1.0f) {
    const double whole = log_sum_exp(scaled(kept));
    double above = 0;  // mass of strictly larger logits
    size_t n = 0;
    while (n < kept.size() && (n == 0 || above < static_cast<double>(params.top_p))) {
      const double tie = logit(kept[n]);
      double mass = 0;
      for (; n < kept.size() && logit(kept[n]) == tie; ++n) mass += std::exp(tie / params.temperature - whole);
      above += mass;
    }
    kept.resize(n);
  }
  if (params.min_p > 0.0f) {
    const double likeliest = logit(open.front()) / params.temperature;
    std::erase_if(kept, [&](int32_t id) {
      return std::exp(logit(id) / params.temperature - likeliest) < static_cast<double>(params.min_p);
    });
  }
  const NoiseStream stream = noise_stream(params.seed, key.tree_key, key.position, key.step, key.candidate);
  std::sort(kept.begin(), kept.end());
  double best = -INFINITY;
  for (const int32_t id : kept) {
    const double u = (stream.block(static_cast<uint32_t>(id / 4)).word[id % 4] + 0.5) * 0x1p-32;
    const double score = logit(id) / params.temperature - std::log(-std::log1p(-u));
    if (score > best) {
      best = score;
      r.id = id;
    }
  }
  r.kept = std::set<int32_t>(kept.begin(), kept.end());
  r.logprob = logit(r.id) - log_sum_exp(raw);
  r.sampling_logprob = logit(r.id) / params.temperature - log_sum_exp(scaled(kept));
  r.log_kept = log_sum_exp(scaled(kept)) - log_sum_exp(scaled(open));
  return r;
}

inline std::vector<float> normal_logits(size_t n, double deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<float> row(n);
  for (float& x : row) x = static_cast<float>(normal(random));
  return row;
}

}  // namespace stepward::kernels::reference
