#include "core/train/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include <ATen/Parallel.h>

#include "core/train/ops.h"
#include "core/train/own_ops.h"
#include "core/train/varlen_attention.h"

#ifdef STEPWARD_CUDA
#include <cuda_runtime_api.h>
#endif

namespace stepward {
namespace {

// The number behind `name` in a file of "name: number kB" lines, in bytes; -1 where there is none.
int64_t status_bytes(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

int64_t number_in(const std::string& file) {
  std::ifstream in(file);
  int64_t value = -1;
  return in >> value ? value : -1;  // "max" is no number
}

// What the control groups above the process leave (version 2: one tree under /sys/fs/cgroup).
int64_t cgroup_room() {
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  std::ifstream in("/proc/self/cgroup");
  int64_t room = kNoLimit;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("0::", 0) != 0) continue;
    for (std::string group = line.substr(3);; group = group.substr(0, group.find_last_of('/'))) {
      const std::string folder = "/sys/fs/cgroup" + group;
      const int64_t limit = number_in(folder + "/memory.max"), used = number_in(folder + "/memory.current");
      if (limit >= 0 && used >= 0) room = std::min(room, std::max<int64_t>(0, limit - used));
      if (group.empty() || group == "/") break;
    }
  }
  return room;
}

// Whether gate and up are made again in the backward pass, in every layer; see Model::mlp.
bool remakes_gate(const Model& model) {
  return has_own_kernels(model.embedding()) &&
         std::all_of(model.layers().begin(), model.layers().end(), has_plain_mlp);
}

// Values that a layer keeps for the backward pass, for each token.
int64_t kept_by_layer(const Model& model, bool own) {
  const ModelConfig& c = model.config();
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  int64_t adapters = 0;
  const LayerWeights& w = model.layers().front();
  for (const Linear* linear : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) {
    if (linear->lora) adapters += linear->lora->a.size(0);
  }
  const int64_t norms = c.qk_norm ? q + kv : 0;
  if (own) {
    // Residual stream twice; q, k, v and the result of attention; gate and up, where they are not made again.
    const int64_t gate = remakes_gate(model) ? 0 : 2 * c.intermediate_size;
    return 2 * c.hidden_size + 2 * q + 2 * kv + c.num_heads + gate + norms + adapters;
  }
  return 8 * c.hidden_size + 4 * q + 3 * kv + 4 * c.intermediate_size + 2 * norms + adapters;
}

#ifdef STEPWARD_CUDA
struct DeviceBytes {
  int64_t taken = -1, free = -1;
};

DeviceBytes device_bytes() {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
  return {static_cast<int64_t>(total - free), static_cast<int64_t>(free)};
}
#endif

}  // namespace

int64_t resident_bytes(const at::Device& device) {
#ifdef STEPWARD_CUDA
  if (device.is_cuda()) return device_bytes().taken;
#endif
  (void)device;
  return status_bytes("/proc/self/status", "VmRSS");
}

int64_t available_bytes(const at::Device& device) {
#ifdef STEPWARD_CUDA
  if (device.is_cuda()) return device_bytes().free;
#endif
  (void)device;
  const int64_t system = status_bytes("/proc/meminfo", "MemAvailable");
  return system < 0 ? -1 : std::min(system, cgroup_room());
}

TrainingMemory training_memory(const Model& model, const TrainableBytes& trainable, int64_t base,
                               const MicroBatchShape& shape) {
  const ModelConfig& c = model.config();
  const bool own = has_own_kernels(model.embedding());
  const int64_t size = static_cast<int64_t>(c10::elementSize(model.dtype()));
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const int64_t kept = kept_by_layer(model, own);
  TrainingMemory memory;
  memory.base = std::max<int64_t>(base, 0);
  memory.gradients = trainable.gradients;
  memory.optimizer = trainable.optimizer;
  memory.activations = shape.tokens * size *
                       (shape.checkpoint_layers ? c.num_layers * c.hidden_size + kept : c.num_layers * kept);
  // The gradients on their way through a layer, attention's copies and sums of keys and values, the hidden states that
  // are scored with their gradients, a block of logits and one of its gradient, panels of products, and one gradient of
  // a weight before it is added to what is there, or those of an MLP.
  const int64_t passing = 3 * c.hidden_size + 3 * q + 9 * kv;
  const int64_t gated = 3 * c.intermediate_size * (remakes_gate(model) ? std::min(shape.tokens, kMlpRows) : shape.tokens);
  const bool mlp = remakes_gate(model) && model.layers().back().gate.weight.requires_grad();
  const int64_t gradient = std::max(trainable.largest_gradient, mlp ? 3 * c.intermediate_size * c.hidden_size * size : 0);
  // Attention: keys and values of every path and their gradients, which flash attention first makes for each query head,
  // and a float32 sum of the queries', where it rounds every path up to 128 rows and every head; or a mask.
  int64_t attention = 0;
  if (has_varlen_attention(model.embedding(), c.head_dim)) {
    attention = shape.path_tokens * (4 * kv + (q == kv ? 0 : 2 * q)) * size +
                (shape.tokens + 128 * shape.paths) * c.num_heads * ((c.head_dim + 31) / 32 * 32) * 4;
  } else if (!own) {
    attention = shape.tokens * shape.tokens * size;
  }
  memory.workspace = (shape.tokens * passing + gated) * size + shape.scored_tokens * c.hidden_size * (2 * size + 4) + attention +
                     (int64_t{16} << 20) + at::get_num_threads() * (int64_t{5} << 20) + gradient;
  memory.resident = resident_bytes(model.device());
  memory.available = available_bytes(model.device());
  return memory;
}

}  // namespace stepward
