#include "core/rollout/packed_model.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "core/tensors.h"
#include "kernels/panels.h"

namespace stepward {
namespace {

using kernels::kPanel;

std::vector<float> floats_or_none(const at::Tensor& tensor) {
  return tensor.defined() ? to_floats(tensor) : std::vector<float>();
}

// The weight a forward pass applies: with the adapter merged in (y += scale (x A^T) B^T).
at::Tensor effective_weight(const Linear& linear) {
  if (!linear.lora) return linear.weight.detach();
  const at::Tensor delta = at::mm(linear.lora->b.detach().to(at::kFloat), linear.lora->a.detach().to(at::kFloat));
  return (linear.weight.detach().to(at::kFloat) + delta * linear.lora->scale).to(linear.weight.scalar_type());
}

PackedLinear pack(const std::vector<const Linear*>& parts) {
  PackedLinear packed;
  packed.inputs = parts[0]->weight.size(1);
  const bool bf16 = parts[0]->weight.scalar_type() == at::kBFloat16;
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
    const at::Tensor weight = effective_weight(*part).contiguous();
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

PackedModel pack_model(const Model& model) {
  PackedModel packed;
  packed.bf16 = model.dtype() == at::kBFloat16;
  for (const LayerWeights& w : model.layers()) {
    packed.layers.push_back({to_floats(w.input_norm.detach()), to_floats(w.post_attention_norm.detach()),
                             floats_or_none(w.q_norm), floats_or_none(w.k_norm), pack({&w.q, &w.k, &w.v}),
                             pack({&w.o}), pack({&w.gate, &w.up}), pack({&w.down})});
  }
  packed.final_norm = to_floats(model.final_norm().detach());
  const Linear head{model.head(), {}, {}};
  packed.head = pack({&head});
  packed.embedding = model.embedding().detach();
  return packed;
}

}  // namespace stepward
