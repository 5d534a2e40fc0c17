#include "core/rollout/packed_model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/narrow.h>

#include "core/lora.h"
#include "core/tensors.h"
#include "kernels/panels.h"

namespace stepward {
namespace {

using kernels::kPanel;

std::vector<float> floats_or_none(const at::Tensor& tensor) {
  return tensor.defined() ? to_floats(tensor) : std::vector<float>();
}

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t panel_stride_of(const Linear& linear, bool bf16) {
  const int64_t inputs = linear.weight.size(1);
  return kPanel * (bf16 ? kernels::bf16_inputs(inputs) : inputs);
}

int64_t elements_of(const std::vector<const Linear*>& parts, bool bf16) {
  int64_t count = 0;
  for (const Linear* part : parts) count += kernels::panels_of(part->weight.size(0)) * panel_stride_of(*part, bf16);
  return count;
}

// One allocation for all panels, on huge pages where the system gives them: products stream through it, and every small
// page would stop the hardware's prefetching and cost a look-up of its address.
class Arena {
 public:
  Arena(int64_t elements, at::ScalarType dtype) {
    const int64_t bytes = elements * static_cast<int64_t>(c10::elementSize(dtype));
    void* memory = std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage);
    if (memory == nullptr) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: where it is not taken all works as well
    all_ = at::from_blob(memory, {elements}, [](void* p) { std::free(p); }, at::TensorOptions().dtype(dtype));
  }

  at::Tensor take(int64_t elements) {
    const at::Tensor part = all_.narrow(0, used_, elements);
    used_ += elements;
    return part;
  }

 private:
  at::Tensor all_;
  int64_t used_ = 0;
};

PackedLinear pack(const std::vector<const Linear*>& parts, bool bf16, Arena& arena) {
  PackedLinear packed;
  packed.inputs = parts[0]->weight.size(1);
  packed.panel_stride = panel_stride_of(*parts[0], bf16);
  bool biased = false;
  for (const Linear* part : parts) {
    packed.columns += kernels::panels_of(part->weight.size(0)) * kPanel;
    biased |= part->bias.defined();
  }
  packed.panels = arena.take(elements_of(parts, bf16));
  if (biased) packed.bias.assign(packed.columns, 0.0f);
  int64_t panel = 0;
  for (const Linear* part : parts) {
    const at::Tensor weight = merged_weight(*part).to(bf16 ? at::kBFloat16 : at::kFloat).contiguous();
    const int64_t rows = weight.size(0), columns = packed.inputs, panels = kernels::panels_of(rows);
    if (part->bias.defined()) {
      const std::vector<float> bias = to_floats(part->bias.detach());
      std::copy(bias.begin(), bias.end(), packed.bias.begin() + panel * kPanel);
    }
    at::parallel_for(0, panels, 4, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kPanel, count = std::min(rows, end * kPanel) - first;
      const int64_t to = (panel + begin) * packed.panel_stride;
      if (bf16) {
        const auto* source = static_cast<const uint16_t*>(weight.const_data_ptr()) + first * columns;
        kernels::pack_bf16_panels(source, columns, count, columns,
                                  static_cast<uint16_t*>(packed.panels.data_ptr()) + to);
      } else {
        kernels::pack_panels(weight.const_data_ptr<float>() + first * columns, columns, count, columns,
                             packed.panels.data_ptr<float>() + to);
      }
    });
    panel += panels;
  }
  return packed;
}

}  // namespace

PackedModel pack_model(const Model& model, bool bf16) {
  PackedModel packed;
  packed.bf16 = bf16;
  const Linear& head = model.head_linear();
  int64_t elements = elements_of({&head}, bf16);
  for (const LayerWeights& w : model.layers())
    elements += elements_of({&w.q, &w.k, &w.v}, bf16) + elements_of({&w.o}, bf16) + elements_of({&w.gate, &w.up}, bf16) +
                elements_of({&w.down}, bf16);
  Arena arena(elements, bf16 ? at::kBFloat16 : at::kFloat);
  // In the order in which a pass reads them.
  for (const LayerWeights& w : model.layers()) {
    PackedLayer layer;
    layer.input_norm = to_floats(w.input_norm.detach());
    layer.post_attention_norm = to_floats(w.post_attention_norm.detach());
    layer.q_norm = floats_or_none(w.q_norm);
    layer.k_norm = floats_or_none(w.k_norm);
    layer.qkv = pack({&w.q, &w.k, &w.v}, bf16, arena);
    layer.o = pack({&w.o}, bf16, arena);
    layer.gate_up = pack({&w.gate, &w.up}, bf16, arena);
    layer.down = pack({&w.down}, bf16, arena);
    packed.layers.push_back(std::move(layer));
  }
  packed.final_norm = to_floats(model.final_norm().detach());
  packed.head = pack({&head}, bf16, arena);
  packed.embedding = model.embedding().detach();
  return packed;
}

}  // namespace stepward
