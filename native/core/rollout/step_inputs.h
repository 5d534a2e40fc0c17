// A step's plan on the device: laid out by its shape alone and sent in one copy, so that steps of one shape differ in
// what lies in memory, not in where it lies or how kernels are launched.
#pragma once

#include <compare>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "core/rollout/step_plan.h"
#include "kernels/segment_attention.h"

namespace stepward {

// Rows of a step that is padded to one of a few shapes.
constexpr int64_t kSmallStep = 256;

// How kernels are launched: rows, and pieces of attention work (kernels/segment_attention.h). Steps of at most
// kSmallStep rows are padded to 1, 2, 4, 8, 16, 32, 48, ... rows and to one of a few numbers of pieces; larger ones are
// as they are.
struct StepShape {
  int64_t rows, pieces;
  bool small() const { return rows <= kSmallStep; }
  auto operator<=>(const StepShape&) const = default;
};

// `group`: query heads per KV head.
StepShape shape_of(const StepPlan& plan, int64_t group);

// Device pointers. Rows of padding have token 0, position 0, slot -1 and no parts; pieces of padding have no entries.
struct DeviceStep {
  const kernels::AttentionPiece* pieces;             // [pieces]
  const int64_t* slots;                              // [rows]
  const int32_t *tokens, *positions, *part_offsets;  // [rows], [rows], [rows + 1]
  const int32_t* blocks;
  const kernels::AttentionEntry* entries;  // [entries, windows], windows ascending
};

class StepInputs {
 public:
  explicit StepInputs(at::Device device) : device_(device) {}

  // Sends the plan on the current stream. Returns whether the memory moved since the step before.
  bool send(const StepPlan& plan, const StepShape& shape, int64_t group);
  DeviceStep at(const StepShape& shape) const;
  // After send(): tokens of the first `rows` rows, to be overwritten on the device.
  int32_t* tokens(const StepShape& shape);
  void clear() { memory_ = at::Tensor(); }

 private:
  const at::Device device_;
  at::Tensor memory_;  // bytes
};

}  // namespace stepward
