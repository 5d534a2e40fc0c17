// CPU twin of sampler.h. A row is read twice: for its maximum, then for its weights exp((z - max) / T), which go to a
// scratch row together with their exact sums; thresholds and noise then touch only the weights that matter.
#include "exact_float.h"

#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "kept_threshold.h"
#include "row_ops.h"

namespace stepward::kernels {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Weights at or above which ids are looked at, tried in turn until they hold what is kept. The last takes every weight
// that is not 0.
constexpr float kCutoffs[] = {0x1p-6f, 0x1p-14f, std::numeric_limits<float>::min()};

// What was drawn from: the mass of all ids that may be drawn at temperature T, and the part that was kept.
struct Kept {
  uint64_t all, kept;
};

class RowSampler {
 public:
  RowSampler(int64_t vocab, const int32_t* barred, int64_t num_barred, const SamplingParams& params)
      : ops_(row_ops()), params_(params), vocab_(vocab) {
    for (int64_t i = 0; i < num_barred; ++i) {
      if (barred[i] >= 0 && barred[i] < vocab) barred_.push_back(barred[i]);
    }
    std::sort(barred_.begin(), barred_.end());
    barred_.erase(std::unique(barred_.begin(), barred_.end()), barred_.end());
    const size_t padded = static_cast<size_t>((vocab + kWeightPad - 1) / kWeightPad * kWeightPad);
    if (weight_.size() < padded) weight_.resize(padded);
    if (index_.size() < static_cast<size_t>(vocab)) index_.resize(static_cast<size_t>(vocab));
    std::fill(weight_.begin() + vocab, weight_.begin() + static_cast<int64_t>(padded), 0.0f);
  }

  // False where the row holds a NaN or +inf or has nothing left to draw.
  bool sample(const float* logits, const SampleKey& key, Sample* out) {
    logits_ = logits;
    bar_ = key.bar != 0 && !barred_.empty();
    if (!find_maxima()) return false;
    const bool greedy = !(params_.temperature > 0.0f);
    const NoiseStream stream = noise_stream(params_.seed, key.tree_key, key.position, key.step, key.candidate);
    uint64_t raw_mass = 0;
    out->sampling_logprob = 0.0f;
    out->log_kept = 0.0f;
    if (greedy) {
      raw_mass = ops_.exp_mass(logits, vocab_, raw_max_);
      out->id = first_open_maximum();
    } else {
      Kept mass;
      mass.all = mass.kept = weigh(&raw_mass);
      out->id = draw(stream, &mass);
      const double scaled = (static_cast<double>(logits[out->id]) - open_max_) / params_.temperature;
      out->sampling_logprob = static_cast<float>(scaled - log_mass(mass.kept));
      if (mass.kept != mass.all) out->log_kept = static_cast<float>(log_mass(mass.kept) - log_mass(mass.all));
    }
    out->logprob = static_cast<float>(static_cast<double>(logits[out->id]) - raw_max_ - log_mass(raw_mass));
    return true;
  }

 private:
  // Calls body(begin, count) for the runs of ids that may be drawn.
  template <typename Body>
  void each_open_run(const Body& body) const {
    int64_t begin = 0;
    if (bar_) {
      for (const int32_t id : barred_) {
        if (id > begin) body(begin, id - begin);
        begin = id + 1;
      }
    }
    if (begin < vocab_) body(begin, vocab_ - begin);
  }

  bool find_maxima() {
    open_max_ = kLowest;
    bool has_nan = false;
    each_open_run([&](int64_t begin, int64_t count) {
      const RowMax run = ops_.max(logits_ + begin, count);
      open_max_ = std::max(open_max_, run.max);
      has_nan = has_nan || run.has_nan;
    });
    raw_max_ = open_max_;
    if (bar_) {
      for (const int32_t id : barred_) {
        has_nan = has_nan || std::isnan(logits_[id]);
        raw_max_ = std::max(raw_max_, logits_[id]);
      }
    }
    return !has_nan && open_max_ != kLowest && raw_max_ != std::numeric_limits<float>::infinity();
  }

  int32_t first_open_maximum() const {
    int64_t found = -1;
    each_open_run([&](int64_t begin, int64_t count) {
      if (found >= 0) return;
      const int64_t i = ops_.first_at_least(logits_ + begin, count, open_max_);
      if (i < count) found = begin + i;
    });
    return static_cast<int32_t>(found);
  }

  // A temperature so small that its inverse overflows still leaves 0 * inverse = 0 for the maximum.
  float inverse_temperature() const { return std::min(1.0f / params_.temperature, std::numeric_limits<float>::max()); }

  // Fills weight_; returns its mass, and in *raw_mass that of exp(z - max) over every id.
  uint64_t weigh(uint64_t* raw_mass) {
    const float inverse = inverse_temperature();
    const bool same = inverse == 1.0f && raw_max_ == open_max_;
    uint64_t mass = 0;
    each_open_run([&](int64_t begin, int64_t count) {
      uint64_t plain = 0;
      const uint64_t run = ops_.weigh(logits_ + begin, count, open_max_, inverse, weight_.data() + begin, raw_max_,
                                      same ? nullptr : &plain);
      mass += run;
      *raw_mass += same ? run : plain;
    });
    if (bar_) {
      for (const int32_t id : barred_) {
        weight_[static_cast<size_t>(id)] = 0.0f;
        *raw_mass += weight_mass(exp_f32(logits_[id] - raw_max_));
      }
    }
    return mass;
  }

  int32_t draw(const NoiseStream& stream, Kept* mass) {
    const bool few = truncates() && keep(mass);
    Draw best;
    if (few) {
      draw_from_list(stream, &best);
    } else {
      // Starting from the heaviest id makes the bar that others must pass high from the start.
      const auto top = static_cast<int32_t>(ops_.first_at_least(weight_.data(), vocab_, 1.0f));
      best.consider(top, 1.0f, stream.block(static_cast<uint32_t>(top) / 4).word[top % 4]);
      ops_.draw(weight_.data(), vocab_, stream, &best);
    }
    return best.id;
  }

  bool top_k() const { return params_.top_k > 0 && params_.top_k < vocab_; }
  bool top_p() const { return params_.top_p < 1.0f; }
  bool min_p() const { return params_.min_p > 0.0f; }
  bool truncates() const { return top_k() || top_p() || min_p(); }

  uint32_t least_by_min_p() const { return min_p_threshold(open_max_, min_p_gap(params_.temperature, params_.min_p)); }

  // The first of kCutoffs whose ids include all that top-k keeps, or without it top-p, or with neither min-p.
  float cutoff_for(uint64_t all) const {
    const auto first = [](const auto& suffices) {
      return *std::find_if(std::begin(kCutoffs), std::end(kCutoffs) - 1, suffices);
    };
    if (!top_k() && !top_p()) {
      const float least = exp_f32((key_value(least_by_min_p()) - open_max_) * inverse_temperature());
      return first([&](float cutoff) { return cutoff <= least; });
    }
    const RowMass wanted{top_k() ? params_.top_k : 0, top_k() ? 0 : top_p_target(params_.top_p, all)};
    return first([&](float cutoff) {
      const RowMass there = ops_.tally(weight_.data(), vocab_, cutoff);
      return there.count >= wanted.count && there.mass >= wanted.mass;
    });
  }

  // Applies top-k, then top-p, then min-p. True: list_ holds the kept ids. False: they are many, and the others'
  // weights are 0 now.
  bool keep(Kept* mass) {
    float cutoff = cutoff_for(mass->all);
    // exp rounds, so next to the cutoff weights need not be in the order of their logits: take a little more.
    if (cutoff > kCutoffs[2]) cutoff *= 0.99999f;
    const int64_t count = ops_.gather(weight_.data(), vocab_, cutoff, index_.data());
    list_.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      const int32_t id = index_[static_cast<size_t>(i)];
      list_[static_cast<size_t>(i)] = {order_key(logits_[id]), id, weight_mass(weight_[static_cast<size_t>(id)])};
    }
    mass->kept = total_mass(list_);
    uint32_t least = 0;
    if (top_k() && count >= params_.top_k) {
      least = count_threshold(list_, static_cast<uint64_t>(params_.top_k));
      mass->kept = drop_below(&list_, least);
    }
    if (top_p()) {
      const uint64_t whole = top_k() ? mass->kept : mass->all;
      least = std::max(least, mass_threshold(list_, top_p_target(params_.top_p, whole)));
      mass->kept = drop_below(&list_, least);
    }
    if (min_p()) {
      least = std::max(least, least_by_min_p());
      mass->kept = drop_below(&list_, least);
    }
    if (static_cast<int64_t>(list_.size()) * 16 < vocab_) return true;
    const float cut = key_value(least);
    each_open_run([&](int64_t begin, int64_t n) { ops_.drop_below(logits_ + begin, n, cut, weight_.data() + begin); });
    return false;
  }

  void draw_from_list(const NoiseStream& stream, Draw* best) const {
    int64_t last = -1;
    PhiloxBlock noise{};
    for (const KeptId& entry : list_) {
      const float weight = weight_[static_cast<size_t>(entry.id)];
      if (weight < best->least_weight()) continue;
      if (entry.id / 4 != last) {
        last = entry.id / 4;
        noise = stream.block(static_cast<uint32_t>(last));
      }
      const uint32_t word = noise.word[entry.id % 4];
      if (weight >= Draw::half_noise(word) * best->bar()) best->consider(entry.id, weight, word);
    }
  }

  const RowOps& ops_;
  const SamplingParams params_;
  const int64_t vocab_;
  std::vector<int32_t> barred_;  // ascending
  const float* logits_ = nullptr;
  bool bar_ = false;
  float open_max_ = 0.0f, raw_max_ = 0.0f;  // over the ids that may be drawn, over all ids

  // Reused from call to call: fresh pages for every call would cost more than the sampling.
  static thread_local std::vector<float> weight_;
  static thread_local std::vector<int32_t> index_;
  static thread_local std::vector<KeptId> list_;
};

thread_local std::vector<float> RowSampler::weight_;
thread_local std::vector<int32_t> RowSampler::index_;
thread_local std::vector<KeptId> RowSampler::list_;

}  // namespace

int64_t sample_rows_cpu(const float* logits, int64_t rows, int64_t vocab, int64_t stride, const SampleKey* keys,
                        const int32_t* barred, int64_t num_barred, const SamplingParams& params, Sample* out) {
  RowSampler sampler(vocab, barred, num_barred, params);
  for (int64_t row = 0; row < rows; ++row) {
    if (!sampler.sample(logits + row * stride, keys[row], out + row)) return row;
  }
  return -1;
}

}  // namespace stepward::kernels
