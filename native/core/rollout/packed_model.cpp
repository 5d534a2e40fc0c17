#include "core/rollout/packed_model.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "core/lora.h"
#include "core/tensors.h"
#include "kernels/panels.h"

namespace stepward {
namespace {

using kernels::kPanel;

std::vector<float> floats_or_none(const at::Tensor& tensor) {
  return tensor.defined() ? to_floats(tensor) : std::vector<float>();
}

PackedLinear pack(const std::vector<const Linear*>& parts, bool bf16) {
  PackedLinear packed;
  packed.inputs = parts[0]->weight.size(1);
  packed.panel_stride = kPanel * (bf16 ? packed.inputs + packed.inputs % 2 : packed.inputs);
  bool biased = false;
  for (const Linear* part : parts) {
    packed.columns += kernels::panels_of(part->weight.size(0)) * kPanel;
    biased |= part->bias.defined();
  }
  packed.panels = at::empty({packed.columns / kPanel * packed.panel_stride}, bf16 ? at::kBFloat16 : at::kFloat);
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
  for (const LayerWeights& w : model.layers()) {
    packed.layers.push_back({to_floats(w.input_norm.detach()), to_floats(w.post_attention_norm.detach()),
                             floats_or_none(w.q_norm), floats_or_none(w.k_norm), pack({&w.q, &w.k, &w.v}, bf16),
                             pack({&w.o}, bf16), pack({&w.gate, &w.up}, bf16), pack({&w.down}, bf16)});
  }
  packed.final_norm = to_floats(model.final_norm().detach());
  const Linear head{model.head(), {}, {}};
  packed.head = pack({&head}, bf16);
  packed.embedding = model.embedding().detach();
  return packed;
}

}  // namespace stepward
