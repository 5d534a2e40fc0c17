// The decoder on the CPU: one parallel region for all layers of a step, each stage shared out over the threads. Every
// number depends on its own row and path alone, whatever the batch, the threads or the CPU (bf16 apart: not every CPU
// has its products).
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>

#include "core/huge_pages.h"
#include "core/rollout/decoder.h"
#include "core/rollout/packed_model.h"
#include "core/rollout/sharing_threshold.h"
#include "core/rollout/team.h"
#include "kernels/decoder_rows.h"
#include "kernels/logprob.h"
#include "kernels/panels.h"
#include "kernels/segment_attention.h"
#include "stepward/error.h"

namespace stepward {
namespace {

using kernels::kBlockTokens;
using kernels::kPanel;
using kernels::PanelMode;

// Rows that stay in the second-level cache while panels pass over them, at most about this many bytes of them.
constexpr int64_t kRowBlockBytes = int64_t{448} << 10;
// Rows that a thread takes through all products of a layer where each has that many: a multiple of what every kind of
// product takes at once, 12 in f32.
constexpr int64_t kBlockRows = 96, kRowTile = 12;
constexpr int64_t kMostPanels = 64;
// Logits made at a time by a thread when they are only summed up, and rows at a time whose logits are whole.
constexpr int64_t kLogitColumns = 2048, kDrawRows = 96;
// Blocks of keys and values mapped at a time: address space is cheap, memory is taken as it is written to.
constexpr int64_t kSlabBytes = int64_t{64} << 20;

// Memory of the pool's blocks, mapped in slabs, so that a small job takes little.
class BlockMemory {
 public:
  explicit BlockMemory(int64_t block_bytes)
      : block_bytes_(block_bytes), slab_blocks_(std::max<int64_t>(1, kSlabBytes / block_bytes)) {}
  ~BlockMemory() { clear(); }
  BlockMemory(const BlockMemory&) = delete;

  void reach(int64_t blocks) {
    while (static_cast<int64_t>(slabs_.size()) * slab_blocks_ < blocks) {
      slabs_.push_back(static_cast<std::byte*>(map_huge_pages(slab_bytes())));
    }
  }
  std::byte* at(int64_t block) const { return slabs_[block / slab_blocks_] + block % slab_blocks_ * block_bytes_; }
  void clear() {
    for (std::byte* slab : slabs_) munmap(slab, slab_bytes());
    slabs_.clear();
  }

 private:
  size_t slab_bytes() const { return static_cast<size_t>(slab_blocks_ * block_bytes_); }

  int64_t block_bytes_, slab_blocks_;
  std::vector<std::byte*> slabs_;
};

// Activations that a product reads: f32, or the bf16 bits of the same values. Zero between a row's columns and what
// products of bf16 panels read.
class Activations {
 public:
  void resize(int64_t rows, int64_t columns, bool bf16) {
    // Whole lines of the cache, an odd number of them: rows at a power of two would share few of its sets.
    lines_ = kernels::bf16_inputs(columns) / kLine | 1;
    if (static_cast<int64_t>(wide_.size()) < rows * stride()) wide_.resize(rows * stride());
    if (bf16 && static_cast<int64_t>(narrow_.size()) < rows * lines_) narrow_.resize(rows * lines_);
  }
  int64_t stride() const { return lines_ * kLine; }
  float* row(int64_t r) { return wide_.data() + r * stride(); }
  const float* row(int64_t r) const { return wide_.data() + r * stride(); }
  uint16_t* narrow_row(int64_t r) { return narrow_.data()[r * lines_].bits; }
  const uint16_t* narrow_row(int64_t r) const { return narrow_.data()[r * lines_].bits; }

 private:
  static constexpr int64_t kLine = kernels::kBf16Inputs;
  struct alignas(64) Line {
    uint16_t bits[kLine];
  };
  std::vector<float> wide_;
  std::vector<Line> narrow_;
  int64_t lines_ = 0;
};

void reserve(std::vector<float>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const Model& model, bool bf16_panels)
      : model_(model),
        bf16_(bf16_panels || model.dtype() == at::kBFloat16),
        config_(model.config()),
        bf16_kv_(model.dtype() == at::kBFloat16),
        head_bytes_(kernels::head_block_elements(config_.head_dim) * (bf16_kv_ ? 2 : 4)),
        memory_(block_bytes()),
        sharing_threshold_(measure_sharing_threshold(config_.head_dim, config_.num_heads / config_.num_kv_heads, bf16_kv_)),
        rope_(rope_table(config_)) {}

  int64_t block_bytes() const override { return config_.num_layers * config_.num_kv_heads * head_bytes_; }

  int64_t sharing_threshold() const override { return sharing_threshold_; }

  void load_weights() override {
    packed_ = PackedModel();  // the old panels go before the new ones are made
    packed_ = pack_model(model_, bf16_);
    // A float32 model's activations are not rounded, whatever its panels are.
    native_bf16_ = model_.dtype() == at::kBFloat16 && kernels::panel_ops().multiply_bf16 != nullptr;
    row_tile_ = native_bf16_ ? kernels::panel_ops().bf16_row_tile : kRowTile;
  }

  void release_memory() override {
    packed_ = PackedModel();
    memory_.clear();
    for (std::vector<float>* buffer : {&x_, &qkv_, &part_out_, &part_max_, &part_sum_, &logits_}) *buffer = {};
    for (Activations* buffer : {&normed_, &attended_, &activated_}) *buffer = {};
  }

  void run(const StepPlan& plan) override;

  int32_t store_hidden(int64_t row) override {
    int32_t slot = static_cast<int32_t>(stored_.size());
    if (free_slots_.empty()) {
      stored_.emplace_back();
    } else {
      slot = free_slots_.back();
      free_slots_.pop_back();
    }
    const float* from = hidden_.row(row);
    stored_[slot].assign(from, from + config_.hidden_size);
    return slot;
  }
  void free_hidden(int32_t slot) override { free_slots_.push_back(slot); }

  void draw(std::vector<DrawQuery>& queries) override;
  std::vector<float> logprobs(const std::vector<LogprobQuery>& queries) override;

 private:
  const float* hidden_of(const HiddenRef& ref) {
    return ref.stored ? stored_[ref.index].data() : hidden_.row(ref.index);
  }
  void narrow_row(Activations& x, int64_t row, int64_t columns) const {
    if (native_bf16_) kernels::decoder_row_ops().to_bf16(x.row(row), columns, x.narrow_row(row));
  }
  // Rows whose inputs of a product stay in the second-level cache.
  int64_t rows_at_once(const PackedLinear& w) const;
  void product(const Activations& x, int64_t first_row, int64_t rows, const PackedLinear& w, int64_t panel,
               int64_t panels, float* c, int64_t ldc, PanelMode mode) const;
  void linear(Team& team, const Activations& x, int64_t begin, int64_t end, const PackedLinear& w, float* y, int64_t ldy,
              PanelMode mode) const;
  void gated(Team& team, int64_t begin, int64_t end, const PackedLinear& w);
  void embed(const StepPlan& plan, int64_t row);
  void rotate_and_write(const StepPlan& plan, const PackedLayer& w, int64_t layer, int64_t row);
  void write(float* to, int64_t offset, const float* k, const float* v) const;
  void write(uint16_t* to, int64_t offset, const float* k, const float* v) const;
  void attend(const StepPlan& plan, const AttentionEntries& entries, int64_t layer, int64_t item, int64_t kv_head);
  // Hidden states as the rows of a product with the head.
  Activations head_inputs(const std::vector<HiddenRef>& refs, size_t begin, size_t end);

  const Model& model_;
  const bool bf16_;  // panels
  const ModelConfig& config_;
  const bool bf16_kv_;        // keys and values, as a bfloat16 model's activations are anyway
  const int64_t head_bytes_;  // of a KV head in a block
  BlockMemory memory_;
  const int64_t sharing_threshold_;
  RopeTable rope_;
  std::vector<float> cos_, sin_;  // [positions, head_dim / 2]
  PackedModel packed_;
  bool native_bf16_ = false;
  int64_t row_tile_ = kRowTile;  // rows that products take at once, or a multiple

  // Of the step: residual stream, inputs of products, and attention's parts.
  std::vector<float> x_, qkv_, part_out_, part_max_, part_sum_, logits_;
  Activations normed_, attended_, activated_, hidden_;
  std::vector<std::vector<float>> stored_;
  std::vector<int32_t> free_slots_;
};

void CpuDecoder::product(const Activations& x, int64_t first_row, int64_t rows, const PackedLinear& w, int64_t panel,
                         int64_t panels, float* c, int64_t ldc, PanelMode mode) const {
  const kernels::PanelOps& ops = kernels::panel_ops();
  const int64_t at = panel * w.panel_stride, k = w.panel_stride / kPanel;
  const float* wide = x.row(first_row);
  if (!packed_.bf16) {
    ops.multiply(wide, x.stride(), rows, w.panels.const_data_ptr<float>() + at, kPanel, w.panel_stride, panels, w.inputs,
                 c, ldc, mode);
    return;
  }
  const auto* b = static_cast<const uint16_t*>(w.panels.const_data_ptr()) + at;
  if (native_bf16_) {
    ops.multiply_bf16(x.narrow_row(first_row), x.stride(), rows, b, w.panel_stride, panels, k, c, ldc, mode);
  } else {
    ops.multiply_wide(wide, x.stride(), rows, b, w.panel_stride, panels, k, c, ldc, mode);
  }
}

int64_t CpuDecoder::rows_at_once(const PackedLinear& w) const {
  const int64_t row_bytes = (native_bf16_ ? 2 : 4) * w.inputs;
  return std::max(2 * row_tile_, kRowBlockBytes / row_bytes / row_tile_ * row_tile_);
}

// How many runs `panels` panels are shared out in: a thread takes a run at a time, so that what a product fetches ahead is
// what this thread reads next, and two runs at least, should one of them be slow.
int64_t runs_of(int64_t panels, int threads) {
  const int64_t rounds = std::max<int64_t>(2, (panels + kMostPanels * threads - 1) / (kMostPanels * threads));
  return rounds * threads;
}

// To c, the columns of `panels` panels from `panel` on.
void add_bias(const PackedLinear& w, int64_t panel, int64_t panels, int64_t rows, float* c, int64_t ldc) {
  if (w.bias.empty()) return;
  const float* bias = w.bias.data() + panel * kPanel;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < panels * kPanel; ++j) c[r * ldc + j] += bias[j];
  }
}

// Rows [begin, end) of y = x w^T.
void CpuDecoder::linear(Team& team, const Activations& x, int64_t begin, int64_t end, const PackedLinear& w, float* y,
                        int64_t ldy, PanelMode mode) const {
  const int64_t at_once = rows_at_once(w);
  const int64_t panels = w.columns / kPanel;
  team.share_evenly(panels, runs_of(panels, team.size()), [&](int64_t from, int64_t to) {
    for (int64_t r = begin; r < end; r += at_once) {
      product(x, r, std::min(at_once, end - r), w, from, to - from, y + r * ldy + from * kPanel, ldy, mode);
    }
    add_bias(w, from, to - from, end - begin, y + begin * ldy + from * kPanel, ldy);
  });
}

// Rows [begin, end) of silu(gate) * up. Gate and up of the same columns are made by the same thread, which joins them
// while they are in its cache.
void CpuDecoder::gated(Team& team, int64_t begin, int64_t end, const PackedLinear& w) {
  const kernels::DecoderRowOps& ops = kernels::decoder_row_ops();
  const int64_t inner = w.columns / 2, at_once = rows_at_once(w);
  team.share_evenly(inner / kPanel, runs_of(2 * inner / kPanel, team.size()), [&](int64_t from, int64_t to) {
    const int64_t panels = to - from, columns = panels * kPanel, stride = 2 * columns;
    thread_local std::vector<float> scratch;
    reserve(scratch, at_once * stride);
    float *gate = scratch.data(), *up = gate + columns;
    for (int64_t r = begin; r < end; r += at_once) {
      const int64_t some = std::min(at_once, end - r);
      for (const auto& [panel, to_half] : {std::pair{from, gate}, std::pair{inner / kPanel + from, up}}) {
        product(normed_, r, some, w, panel, panels, to_half, stride, PanelMode::store);
        add_bias(w, panel, panels, some, to_half, stride);
      }
      for (int64_t m = 0; m < some; ++m) {
        float* joined = native_bf16_ ? gate + m * stride : activated_.row(r + m) + from * kPanel;
        ops.silu_mul(gate + m * stride, up + m * stride, columns, joined);
        if (native_bf16_)
          ops.to_bf16(joined, columns, activated_.narrow_row(r + m) + from * kPanel);
      }
    }
  });
}

void CpuDecoder::embed(const StepPlan& plan, int64_t row) {
  const int64_t hidden = config_.hidden_size, at = plan.tokens[row] * hidden;
  float* x = x_.data() + row * ((hidden + kPanel - 1) / kPanel * kPanel);
  if (packed_.embedding.scalar_type() == at::kBFloat16) {
    const auto* from = static_cast<const uint16_t*>(packed_.embedding.const_data_ptr()) + at;
    for (int64_t i = 0; i < hidden; ++i) {
      const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      std::memcpy(x + i, &bits, sizeof(bits));
    }
  } else {
    std::copy_n(packed_.embedding.const_data_ptr<float>() + at, hidden, x);
  }
}

// A token's key and value to its slot of a block's KV head.
void CpuDecoder::write(float* to, int64_t offset, const float* k, const float* v) const {
  const int64_t dim = config_.head_dim;
  for (int64_t d = 0; d < dim; ++d) to[d * kBlockTokens + offset] = k[d];
  std::copy_n(v, dim, to + dim * kBlockTokens + offset * kernels::value_width(dim));
}

// The same in bf16, where rows lie in pairs.
void CpuDecoder::write(uint16_t* to, int64_t offset, const float* k, const float* v) const {
  const kernels::DecoderRowOps& ops = kernels::decoder_row_ops();
  const int64_t dim = config_.head_dim;
  uint16_t* value = to + dim * kBlockTokens + offset / 2 * 2 * kernels::value_width(dim) + offset % 2;
  thread_local std::vector<uint16_t> narrow;
  narrow.resize(dim);
  ops.to_bf16(k, dim, narrow.data());
  for (int64_t d = 0; d < dim; d += 2) std::memcpy(to + d * kBlockTokens + offset * 2, narrow.data() + d, 4);
  ops.to_bf16(v, dim, narrow.data());
  for (int64_t d = 0; d < dim; ++d) value[2 * d] = narrow[d];
}

// Queries are normalised, rotated and scaled in place; keys and values go to the row's slot.
void CpuDecoder::rotate_and_write(const StepPlan& plan, const PackedLayer& w, int64_t layer, int64_t row) {
  const kernels::DecoderRowOps& ops = kernels::decoder_row_ops();
  const int64_t dim = config_.head_dim, half = dim / 2, heads = config_.num_heads, kv_heads = config_.num_kv_heads;
  const float *cos = cos_.data() + plan.positions[row] * half, *sin = sin_.data() + plan.positions[row] * half;
  const float eps = static_cast<float>(config_.rms_norm_eps), scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto padded = [](int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; };
  float* q = qkv_.data() + row * w.qkv.columns;
  float* k = q + padded(heads * dim);
  const float* v = k + padded(kv_heads * dim);
  for (int64_t h = 0; h < heads; ++h) {
    if (!w.q_norm.empty()) ops.rms_norm(q + h * dim, dim, eps, w.q_norm.data(), q + h * dim);
    ops.rotate(q + h * dim, half, cos, sin, scale);
  }
  const int64_t block = plan.slots[row] / kBlockTokens, offset = plan.slots[row] % kBlockTokens;
  for (int64_t h = 0; h < kv_heads; ++h) {
    if (!w.k_norm.empty()) ops.rms_norm(k + h * dim, dim, eps, w.k_norm.data(), k + h * dim);
    ops.rotate(k + h * dim, half, cos, sin, 1.0f);
    std::byte* to = memory_.at(block) + (layer * kv_heads + h) * head_bytes_;
    if (bf16_kv_) {
      write(reinterpret_cast<uint16_t*>(to), offset, k + h * dim, v + h * dim);
    } else {
      write(reinterpret_cast<float*>(to), offset, k + h * dim, v + h * dim);
    }
  }
}

void CpuDecoder::attend(const StepPlan& plan, const AttentionEntries& entries, int64_t layer, int64_t item, int64_t kv_head) {
  const int64_t dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
  const int64_t begin = entries.offsets[item];
  const float* wide[kernels::kChunkTokens / kBlockTokens];
  const uint16_t* narrow[kernels::kChunkTokens / kBlockTokens];
  for (int64_t b = plan.block_offsets[item]; b < plan.block_offsets[item + 1]; ++b) {
    const std::byte* head = memory_.at(plan.blocks[b]) + (layer * config_.num_kv_heads + kv_head) * head_bytes_;
    wide[b - plan.block_offsets[item]] = reinterpret_cast<const float*>(head);
    narrow[b - plan.block_offsets[item]] = reinterpret_cast<const uint16_t*>(head);
  }
  kernels::attend_chunk_cpu({.q = qkv_.data(),
                             .q_stride = packed_.layers[layer].qkv.columns,
                             .head_dim = dim,
                             .first_head = kv_head * group,
                             .group = group,
                             .head_blocks = bf16_kv_ ? nullptr : wide,
                             .rows = entries.rows.data() + begin,
                             .parts = entries.parts.data() + begin,
                             .first = entries.first.at(config_.window[layer]).data() + begin,
                             .last = entries.last.data() + begin,
                             .entries = entries.offsets[item + 1] - begin,
                             .out = part_out_.data(),
                             .max = part_max_.data(),
                             .sum = part_sum_.data(),
                             .num_heads = config_.num_heads,
                             .bf16_blocks = narrow});
}

// Where rows are cut into blocks, 0 and `rows` included. Few rows are one block, which all threads take together and share
// out the panels of weights; of many, each thread takes blocks that stay in its cache from one product to the next, the
// last of them small so that threads end together.
std::vector<int64_t> row_blocks(int64_t rows, int64_t tile) {
  const int64_t threads = at::get_num_threads();
  std::vector<int64_t> cuts{0};
  if (rows < kBlockRows * 2 * threads) {
    cuts.push_back(rows);
    return cuts;
  }
  while (cuts.back() < rows) {
    const int64_t left = rows - cuts.back(), piece = left / (2 * threads) / tile * tile;
    cuts.push_back(std::min(rows, cuts.back() + std::clamp(piece, tile, kBlockRows)));
  }
  return cuts;
}

void CpuDecoder::run(const StepPlan& plan) {
  const kernels::DecoderRowOps& ops = kernels::decoder_row_ops();
  const int64_t rows = plan.num_rows(), hidden = config_.hidden_size, dim = config_.head_dim;
  const int64_t width = (hidden + kPanel - 1) / kPanel * kPanel;  // of a row of the residual stream
  const int64_t inner = packed_.layers[0].gate_up.columns / 2, heads = config_.num_heads;
  const int64_t kv_heads = config_.num_kv_heads, parts = plan.part_offsets.back();
  const float eps = static_cast<float>(config_.rms_norm_eps);

  // All memory first: the region below must not throw.
  reserve(x_, rows * width);
  reserve(qkv_, rows * packed_.layers[0].qkv.columns);
  reserve(part_out_, parts * heads * kernels::value_width(dim));
  reserve(part_max_, parts * heads);
  reserve(part_sum_, parts * heads);
  normed_.resize(rows, hidden, packed_.bf16);
  attended_.resize(rows, heads * dim, packed_.bf16);
  activated_.resize(rows, inner, packed_.bf16);
  hidden_.resize(rows, hidden, packed_.bf16);
  const std::vector<int32_t>& kept = plan.kept;
  const int64_t kept_rows = static_cast<int64_t>(kept.size());
  const bool narrows = kept_rows < rows;  // not where every row is sampled after
  const AttentionEntries kept_entries = narrows ? entries_of_kept(plan) : AttentionEntries();
  int64_t highest = -1;
  for (const int64_t slot : plan.slots) highest = std::max(highest, slot / kBlockTokens);
  memory_.reach(highest + 1);
  const int64_t half = dim / 2;
  const int64_t reach = *std::max_element(plan.positions.begin(), plan.positions.end()) + 1;
  for (int64_t p = static_cast<int64_t>(cos_.size()) / half; p < reach; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * rope_.inv_freq[i];
      cos_.push_back(std::cos(angle) * rope_.attention_scaling);
      sin_.push_back(std::sin(angle) * rope_.attention_scaling);
    }
  }

  const std::vector<int64_t> blocks = row_blocks(rows, row_tile_), kept_blocks = row_blocks(kept_rows, row_tile_);
  const auto over_rows = [](Team& team, const std::vector<int64_t>& cuts, const auto& stage) {
    if (cuts.size() == 2) return stage(team, 0, cuts[1]);
    team.share(static_cast<int64_t>(cuts.size()) - 1, 1, [&](int64_t block, int64_t) {
      Team::run(0, [&](Team& alone) { stage(alone, cuts[block], cuts[block + 1]); });
    });
  };
  const auto each_row = [](Team& team, int64_t begin, int64_t end, const auto& body) {
    const int64_t count = end - begin;
    team.share(count, std::clamp<int64_t>(count / 8, 1, 16), [&](int64_t from, int64_t to) {
      for (int64_t r = begin + from; r < begin + to; ++r) body(r);
    });
  };
  // Row r's norm to row `to`.
  const auto norm = [&](const std::vector<float>& weight, Activations& y, int64_t r, int64_t to) {
    ops.rms_norm(x_.data() + r * width, hidden, eps, weight.data(), y.row(to));
    narrow_row(y, to, hidden);
  };
  const auto project = [&](Team& team, int64_t i, int64_t begin, int64_t end) {
    const PackedLayer& w = packed_.layers[i];
    linear(team, normed_, begin, end, w.qkv, qkv_.data(), w.qkv.columns, PanelMode::store);
    each_row(team, begin, end, [&](int64_t r) { rotate_and_write(plan, w, i, r); });
  };
  Team::run(2.0 * static_cast<double>(rows * hidden * inner), [&](Team& team) {
    over_rows(team, blocks, [&](Team& some, int64_t begin, int64_t end) {
      each_row(some, begin, end, [&](int64_t r) {
        embed(plan, r);
        norm(packed_.layers[0].input_norm, normed_, r, r);
      });
      project(some, 0, begin, end);
    });
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      const PackedLayer& w = packed_.layers[i];
      // From here on the last layer has only the rows that are kept, side by side.
      const bool last = i + 1 == config_.num_layers, narrowed = last && narrows;
      const auto row_of = [&](int64_t r) { return narrowed ? kept[r] : r; };
      if (narrowed) {
        team.share(hidden, kPanel, [&](int64_t begin, int64_t end) {
          for (int64_t r = 0; r < kept_rows; ++r)
            std::copy(x_.data() + row_of(r) * width + begin, x_.data() + row_of(r) * width + end,
                      x_.data() + r * width + begin);
        });
      }
      const AttentionEntries& entries = narrowed ? kept_entries : plan.entries;
      team.share(plan.num_items() * kv_heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) attend(plan, entries, i, t / kv_heads, t % kv_heads);
      });
      over_rows(team, narrowed ? kept_blocks : blocks, [&](Team& some, int64_t begin, int64_t end) {
        each_row(some, begin, end, [&](int64_t r) {
          kernels::merge_parts_cpu(part_out_.data(), part_max_.data(), part_sum_.data(), plan.part_offsets[row_of(r)],
                                   plan.part_offsets[row_of(r) + 1], heads, dim, attended_.row(r));
          narrow_row(attended_, r, heads * dim);
        });
        linear(some, attended_, begin, end, w.o, x_.data(), width, PanelMode::add);
        each_row(some, begin, end, [&](int64_t r) { norm(w.post_attention_norm, normed_, r, r); });
        gated(some, begin, end, w.gate_up);
        linear(some, activated_, begin, end, w.down, x_.data(), width, PanelMode::add);
        each_row(some, begin, end, [&](int64_t r) {
          if (last) {
            norm(packed_.final_norm, hidden_, r, row_of(r));
          } else {
            norm(packed_.layers[i + 1].input_norm, normed_, r, r);
          }
        });
        if (!last) project(some, i + 1, begin, end);
      });
    }
  });
}

Activations CpuDecoder::head_inputs(const std::vector<HiddenRef>& refs, size_t begin, size_t end) {
  Activations inputs;
  inputs.resize(static_cast<int64_t>(end - begin), config_.hidden_size, packed_.bf16);
  for (size_t i = begin; i < end; ++i) {
    const int64_t row = static_cast<int64_t>(i - begin);
    std::copy_n(hidden_of(refs[i]), config_.hidden_size, inputs.row(row));
    narrow_row(inputs, row, config_.hidden_size);
  }
  return inputs;
}

void CpuDecoder::draw(std::vector<DrawQuery>& queries) {
  // Siblings draw from the same hidden state: its logits are made once.
  std::vector<HiddenRef> refs;
  std::vector<size_t> row_of(queries.size());
  std::map<std::pair<bool, int64_t>, size_t> known;
  for (size_t i = 0; i < queries.size(); ++i) {
    const auto [at, fresh] = known.try_emplace({queries[i].hidden.stored, queries[i].hidden.index}, refs.size());
    if (fresh) refs.push_back(queries[i].hidden);
    row_of[i] = at->second;
  }
  const int64_t columns = packed_.head.columns;
  reserve(logits_, static_cast<int64_t>(std::min<size_t>(refs.size(), kDrawRows)) * columns);
  for (size_t first = 0; first < refs.size(); first += kDrawRows) {
    const size_t end = std::min(refs.size(), first + kDrawRows);
    const Activations inputs = head_inputs(refs, first, end);
    std::vector<size_t> here;
    for (size_t i = 0; i < queries.size(); ++i) {
      if (row_of[i] >= first && row_of[i] < end) here.push_back(i);
    }
    const double flops = 2.0 * static_cast<double>((end - first) * config_.hidden_size * columns);
    Team::run(flops, [&](Team& team) {
      linear(team, inputs, 0, static_cast<int64_t>(end - first), packed_.head, logits_.data(), columns, PanelMode::store);
      team.share(static_cast<int64_t>(here.size()), 1, [&](int64_t begin, int64_t stop) {
        for (int64_t i = begin; i < stop; ++i) {
          DrawQuery& query = queries[here[i]];
          const float* row = logits_.data() + (row_of[here[i]] - first) * columns;
          query.bad = kernels::sample_rows_cpu(row, 1, config_.vocab_size, columns, &query.key, query.barred->data(),
                                               static_cast<int64_t>(query.barred->size()), *query.params,
                                               &query.sample) >= 0;
        }
      });
    });
  }
}

std::vector<float> CpuDecoder::logprobs(const std::vector<LogprobQuery>& queries) {
  std::vector<HiddenRef> refs;
  std::vector<size_t> offsets{0};
  for (const LogprobQuery& query : queries) {
    refs.push_back(query.hidden);
    offsets.push_back(offsets.back() + query.targets.size());
  }
  const int64_t vocab = config_.vocab_size, blocks = (vocab + kLogitColumns - 1) / kLogitColumns;
  std::vector<float> result(offsets.back());  // first the targets' logits
  for (size_t first = 0; first < refs.size(); first += kDrawRows) {
    const size_t end = std::min(refs.size(), first + kDrawRows);
    const int64_t rows = static_cast<int64_t>(end - first);
    const Activations inputs = head_inputs(refs, first, end);
    // Maximum and sum of every block of columns, to be joined in the order of the blocks whoever made them.
    std::vector<float> max(blocks * rows, -std::numeric_limits<float>::infinity()), sum(blocks * rows, 0.0f);
    const std::vector<int32_t> none(rows, -1);
    const double flops = 2.0 * static_cast<double>(rows * config_.hidden_size * vocab);
    Team::run(flops, [&](Team& team) {
      std::vector<float> logits(rows * kLogitColumns);
      team.share(blocks, 1, [&](int64_t begin, int64_t stop) {
        for (int64_t b = begin; b < stop; ++b) {
          const int64_t column = b * kLogitColumns, count = std::min(kLogitColumns, vocab - column);
          product(inputs, 0, rows, packed_.head, column / kPanel, kernels::panels_of(count), logits.data(),
                  kLogitColumns, PanelMode::store);
          // Targets are picked below, as a row may have several.
          kernels::logprob_update_cpu({logits.data(), rows, count, kLogitColumns, column}, none.data(),
                                      max.data() + b * rows, sum.data() + b * rows, nullptr);
          for (int64_t r = 0; r < rows; ++r) {
            const std::vector<int32_t>& targets = queries[first + r].targets;
            for (size_t t = 0; t < targets.size(); ++t) {
              if (targets[t] >= column && targets[t] < column + count)
                result[offsets[first + r] + t] = logits[r * kLogitColumns + targets[t] - column];
            }
          }
        }
      });
    });
    for (int64_t r = 0; r < rows; ++r) {
      float top = -std::numeric_limits<float>::infinity();
      for (int64_t b = 0; b < blocks; ++b) top = std::max(top, max[b * rows + r]);
      double total = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const float base = max[b * rows + r];
        // A block of only -inf adds 0; one with NaN has a NaN sum.
        total += base == -std::numeric_limits<float>::infinity()
                     ? static_cast<double>(sum[b * rows + r])
                     : std::exp(static_cast<double>(base) - top) * sum[b * rows + r];
      }
      // Large terms cancel first.
      for (size_t i = offsets[first + r]; i < offsets[first + r + 1]; ++i)
        result[i] = (result[i] - top) - static_cast<float>(std::log(total));
    }
  }
  return result;
}

}  // namespace

std::unique_ptr<Decoder> make_cpu_decoder(const Model& model, bool bf16_panels) {
  return std::make_unique<CpuDecoder>(model, bf16_panels);
}

}  // namespace stepward
