// The decoder on CUDA: cuBLAS for the products, own kernels for all between them, small steps replayed as graphs.
// Activations are float32; what a product reads has the dtype of the model's weights. A row's results come from kernels
// that do not look at other rows; products may round differently for different numbers of rows.
#ifdef STEPWARD_CUDA

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "core/rollout/block_slabs.h"
#include "core/rollout/decode_graphs.h"
#include "core/rollout/decoder.h"
#include "core/rollout/device_head.h"
#include "core/rollout/fused_model.h"
#include "core/rollout/step_inputs.h"
#include "kernels/decoder_rows.h"
#include "stepward/error.h"

namespace stepward {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) fail(ErrorCode::INTERNAL, "CUDA: ", cudaGetErrorString(status));
}

class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;

  // What `later` gets from now on waits for what `earlier` has by now.
  void order(cudaStream_t earlier, cudaStream_t later) const {
    check(cudaEventRecord(event_, earlier));
    check(cudaStreamWaitEvent(later, event_, 0));
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaDecoder final : public Decoder {
 public:
  explicit CudaDecoder(const Model& model)
      : model_(model),
        config_(model.config()),
        device_(model.device()),
        group_(config_.num_heads / config_.num_kv_heads),
        head_block_(kernels::head_block_elements(config_.head_dim)),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_.index())),
        slabs_(config_.num_layers * config_.num_kv_heads * head_block_, device_),
        inputs_(device_),
        windows_(config_.window.begin(), config_.window.end()) {}

  ~CudaDecoder() override { cudaStreamSynchronize(stream_.stream()); }

  int64_t block_bytes() const override {
    return config_.num_layers * config_.num_kv_heads * head_block_ * static_cast<int64_t>(sizeof(float));
  }

  // Always: a thread block reads a chunk in the same time for one row as for several.
  int64_t sharing_threshold() const override { return 2; }

  void load_weights() override {
    const OwnStream own(*this);
    graphs_.clear();
    weights_ = FusedModel();  // the old ones go before the new ones are made
    weights_ = fuse_model(model_);
  }

  void release_memory() override {
    const OwnStream own(*this);
    graphs_.clear();
    weights_ = FusedModel();
    slabs_.clear();
    inputs_.clear();
    for (at::Tensor* buffer : {&cos_, &sin_, &x_, &delta_, &normed_, &qkv_, &attended_, &gate_up_, &activated_,
                               &hidden_, &part_out_, &part_max_, &part_sum_}) {
      *buffer = at::Tensor();
    }
  }

  void run(const StepPlan& plan) override {
    if (plan.num_rows() == 0) return;
    const OwnStream own(*this);
    run(plan, nullptr);
  }

  // Looking at a step's draws costs a wait for the device, the plan of the next and a copy to it, as much as a step of a small
  // model takes.
  int64_t steps_ahead() const override { return 4; }
  std::unique_ptr<DecodeRun> decode_run() override { return std::make_unique<Run>(*this); }

  // On the decoder's stream. `drawn`: row r's token is its draw r.
  void run(const StepPlan& plan, const QueuedDraws* drawn) {
    const StepShape shape = shape_of(plan, group_);
    bool moved = reserve(shape.rows, plan.part_offsets.back());
    int64_t highest = 0;
    for (const int64_t slot : plan.slots) highest = std::max(highest, slot / kernels::kBlockTokens);
    slabs_.reach(highest + 1);
    moved |= reach_position(*std::max_element(plan.positions.begin(), plan.positions.end()));
    moved |= inputs_.send(plan, shape, group_);
    if (drawn != nullptr) {
      kernels::drawn_tokens_cuda(static_cast<const kernels::Sample*>(drawn->samples.const_data_ptr()),
                                 drawn->places.const_data_ptr<int32_t>(), plan.num_rows(), inputs_.tokens(shape),
                                 stream_.stream());
    }
    if (moved) graphs_.clear();
    if (shape.small()) {
      graphs_.run(shape, [this, shape] { layers(shape); });
    } else {
      layers(shape);
    }
  }

  int32_t store_hidden(int64_t row) override {
    const OwnStream own(*this);
    int32_t slot = slots_;
    if (free_slots_.empty()) {
      ++slots_;
    } else {
      slot = free_slots_.back();
      free_slots_.pop_back();
    }
    if (!stored_.defined() || stored_.size(0) <= slot) {
      const at::Tensor old = stored_;
      stored_ = at::empty({std::max<int64_t>(64, 2 * slot), config_.hidden_size}, options(model_.dtype()));
      if (old.defined()) stored_.narrow(0, 0, old.size(0)).copy_(old);
    }
    stored_.select(0, slot).copy_(hidden_.select(0, row));
    return slot;
  }
  void free_hidden(int32_t slot) override { free_slots_.push_back(slot); }

  void draw(std::vector<DrawQuery>& queries) override {
    if (queries.empty()) return;
    const OwnStream own(*this);
    collect_draws(queue_draws(head(), queries), queries);
    check(cudaGetLastError());
  }

  std::vector<float> logprobs(const std::vector<LogprobQuery>& queries) override {
    const OwnStream own(*this);
    std::vector<float> result = target_logprobs(head(), queries);
    check(cudaGetLastError());
    return result;
  }

 private:
  // While one lives, work goes to the decoder's stream, since the default stream cannot be captured. It is ordered with
  // the caller's as if it went there.
  class OwnStream {
   public:
    explicit OwnStream(const CudaDecoder& decoder)
        : decoder_(decoder),
          caller_(c10::cuda::getCurrentCUDAStream(decoder.device_.index())),
          guard_(decoder.stream_) {
      decoder_.event_.order(caller_.stream(), decoder_.stream_.stream());
    }
    ~OwnStream() {
      try {
        decoder_.event_.order(decoder_.stream_.stream(), caller_.stream());
      } catch (const Error&) {  // CUDA is broken, and the next call says so
      }
    }
    OwnStream(const OwnStream&) = delete;

   private:
    const at::NoGradGuard no_grad_;
    const CudaDecoder& decoder_;
    const c10::cuda::CUDAStream caller_;
    const c10::cuda::CUDAStreamGuard guard_;
  };

  // Steps and draws follow each other on the stream; the host waits once, at the end.
  class Run final : public DecodeRun {
   public:
    explicit Run(CudaDecoder& decoder) : decoder_(decoder) {}

    void step(DecodeStep& step) override {
      const OwnStream own(decoder_);
      decoder_.run(step.plan, draws_.empty() ? nullptr : &draws_.back());
      draws_.push_back(queue_draws(decoder_.head(), step.draws));
      steps_.push_back(&step);
    }
    void collect() override {
      const OwnStream own(decoder_);
      for (size_t s = 0; s < steps_.size(); ++s) collect_draws(draws_[s], steps_[s]->draws);
      check(cudaGetLastError());
    }

   private:
    CudaDecoder& decoder_;
    std::vector<DecodeStep*> steps_;
    std::vector<QueuedDraws> draws_;
  };

  DeviceHead head() const { return {weights_.head, hidden_, stored_}; }
  at::TensorOptions options(at::ScalarType dtype) const { return at::TensorOptions(dtype).device(device_); }
  bool reserve(int64_t rows, int64_t parts);
  bool reach_position(int64_t position);
  void layers(const StepShape& shape);
  void attention(const StepShape& shape, const DeviceStep& step, int64_t layer);

  const Model& model_;
  const ModelConfig& config_;
  const at::Device device_;
  const int64_t group_, head_block_;
  const c10::cuda::CUDAStream stream_;
  const Event event_;
  FusedModel weights_;
  BlockSlabs slabs_;
  StepInputs inputs_;
  const std::set<int64_t> windows_;  // distinct, in the order of a plan's
  DecodeGraphs graphs_;              // after all that its graphs read

  at::Tensor cos_, sin_;  // [positions, head_dim / 2]
  // Of the step, [rows, *]. The residual stream and what is to be added to it; then, in the order of a layer, what its
  // products read and give.
  at::Tensor x_, delta_, normed_, qkv_, attended_, gate_up_, activated_, hidden_;
  at::Tensor part_out_, part_max_, part_sum_;
  at::Tensor stored_;  // [slots, hidden]
  int32_t slots_ = 0;
  std::vector<int32_t> free_slots_;
};

// Makes room for a step's activations; whether any of them moved. Room for small steps is there from the start, so that
// their graphs last.
bool CudaDecoder::reserve(int64_t rows, int64_t parts) {
  bool moved = false;
  const auto grow = [&](at::Tensor& buffer, int64_t count, int64_t columns, at::ScalarType dtype) {
    if (buffer.defined() && buffer.size(0) >= count) return;
    buffer = at::Tensor();
    buffer = at::empty({count, columns}, options(dtype));
    moved = true;
  };
  const ModelConfig& c = config_;
  const int64_t room = std::max(rows, kSmallStep), heads = c.num_heads, queries = heads * c.head_dim;
  const at::ScalarType narrow = model_.dtype();
  grow(x_, room, c.hidden_size, at::kFloat);
  grow(delta_, room, c.hidden_size, at::kFloat);
  grow(normed_, room, c.hidden_size, narrow);
  grow(qkv_, room, queries + 2 * c.num_kv_heads * c.head_dim, at::kFloat);
  grow(attended_, room, queries, narrow);
  grow(gate_up_, room, 2 * c.intermediate_size, at::kFloat);
  grow(activated_, room, c.intermediate_size, narrow);
  grow(hidden_, room, c.hidden_size, narrow);
  if (!part_max_.defined() || part_max_.size(0) < parts) {
    const int64_t some = std::max(parts + parts / 2, 4 * kSmallStep);
    grow(part_out_, some, heads * kernels::value_width(c.head_dim), at::kFloat);
    grow(part_max_, some, heads, at::kFloat);
    grow(part_sum_, some, heads, at::kFloat);
  }
  return moved;
}

bool CudaDecoder::reach_position(int64_t position) {
  if (cos_.defined() && cos_.size(0) > position) return false;
  const RopeTable rope = rope_table(config_);
  const auto count = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(position + 1, 4096))));
  // Angles are rounded to float32 as transformers does it.
  const at::Tensor angles = at::arange(count, options(at::kFloat)).unsqueeze(1) *
                            at::tensor(rope.inv_freq, at::TensorOptions(at::kFloat)).to(device_);
  cos_ = angles.cos() * rope.attention_scaling;
  sin_ = angles.sin() * rope.attention_scaling;
  return true;
}

kernels::ProductInput input_of(const at::Tensor& buffer) {
  if (buffer.scalar_type() == at::kFloat) return {buffer.data_ptr<float>(), nullptr};
  return {nullptr, static_cast<uint16_t*>(buffer.data_ptr())};
}

const float* floats_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

// Everything a step does between its inputs and its hidden states. Nothing here may depend on more than the shape: it
// may be captured.
void CudaDecoder::layers(const StepShape& shape) {
  void* stream = stream_.stream();
  const DeviceStep step = inputs_.at(shape);
  const int64_t rows = shape.rows, hidden = config_.hidden_size, inner = config_.intermediate_size;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  float* x = x_.data_ptr<float>();
  const auto linear = [&](const at::Tensor& from, const FusedLinear& w, const at::Tensor& to) {
    at::Tensor out = to.narrow(0, 0, rows);
    product(from.narrow(0, 0, rows), w.weight, out);
    if (w.bias.defined()) out.add_(w.bias);
  };

  kernels::embed_cuda(weights_.embedding.const_data_ptr(), model_.dtype() == at::kBFloat16, step.tokens, rows, hidden,
                      x, stream);
  const float* add = nullptr;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const FusedLayer& w = weights_.layers[i];
    kernels::rms_norm_cuda(x, add, rows, hidden, eps, floats_of(w.input_norm), input_of(normed_), stream);
    product(normed_.narrow(0, 0, rows), w.qkv.weight, qkv_.narrow(0, 0, rows));
    attention(shape, step, i);
    linear(attended_, w.o, delta_);
    add = delta_.const_data_ptr<float>();
    kernels::rms_norm_cuda(x, add, rows, hidden, eps, floats_of(w.post_attention_norm), input_of(normed_), stream);
    linear(normed_, w.gate_up, gate_up_);
    kernels::silu_mul_cuda(gate_up_.const_data_ptr<float>(), rows, inner, input_of(activated_), stream);
    linear(activated_, w.down, delta_);
  }
  kernels::rms_norm_cuda(x, add, rows, hidden, eps, floats_of(weights_.final_norm), input_of(hidden_), stream);
  check(cudaGetLastError());
}

// From the product for queries, keys and values to what the output projection reads.
void CudaDecoder::attention(const StepShape& shape, const DeviceStep& step, int64_t layer) {
  void* stream = stream_.stream();
  const FusedLayer& w = weights_.layers[layer];
  const int64_t dim = config_.head_dim, heads = config_.num_heads, kv_heads = config_.num_kv_heads;
  const kernels::BlockPool pool = slabs_.pool(layer * kv_heads * head_block_);
  kernels::rotary_write_cuda(qkv_.data_ptr<float>(), pool,
                             {.rows = shape.rows,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = dim,
                              .positions = step.positions,
                              .slots = step.slots,
                              .cos = floats_of(cos_),
                              .sin = floats_of(sin_),
                              .q_norm = floats_of(w.q_norm),
                              .k_norm = floats_of(w.k_norm),
                              .bias = floats_of(w.qkv.bias),
                              .eps = static_cast<float>(config_.rms_norm_eps),
                              .scale = 1.0f / std::sqrt(static_cast<float>(dim))},
                             stream);
  const auto window = std::distance(windows_.begin(), windows_.find(config_.window[layer]));
  kernels::attend_chunks_cuda({.q = qkv_.const_data_ptr<float>(),
                               .q_stride = qkv_.size(1),
                               .head_dim = dim,
                               .num_heads = heads,
                               .num_kv_heads = kv_heads,
                               .pool = pool,
                               .pieces = step.pieces,
                               .num_pieces = shape.pieces,
                               .blocks = step.blocks,
                               .entries = step.entries + window,
                               .entry_stride = static_cast<int64_t>(windows_.size()),
                               .out = part_out_.data_ptr<float>(),
                               .max = part_max_.data_ptr<float>(),
                               .sum = part_sum_.data_ptr<float>()},
                              stream);
  kernels::merge_parts_cuda(part_out_.const_data_ptr<float>(), part_max_.const_data_ptr<float>(),
                            part_sum_.const_data_ptr<float>(), step.part_offsets, shape.rows, heads, dim,
                            input_of(attended_), stream);
}

}  // namespace

std::unique_ptr<Decoder> make_cuda_decoder(const Model& model) {
  if (!model.device().is_cuda()) {
    fail(ErrorCode::UNSUPPORTED_DEVICE, "expected a model on a CUDA device, got one on ", model.device().str());
  }
  return std::make_unique<CudaDecoder>(model);
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
