#ifdef STEPWARD_CUDA

#include "core/rollout/step_inputs.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include <ATen/ops/empty.h>

namespace stepward {
namespace {

using kernels::AttentionEntry;
using kernels::AttentionPiece;
using kernels::kBlockTokens;
using kernels::kChunkTokens;

constexpr int64_t kChunkBlocks = kChunkTokens / kBlockTokens;

int64_t entries_of_piece(int64_t group) {
  return std::max<int64_t>(1, kernels::kPieceQueries / group);
}

// Where things lie, in bytes. Entries come last: their number is not part of the shape.
struct Layout {
  int64_t pieces, slots, tokens, positions, part_offsets, blocks, entries;

  explicit Layout(const StepShape& shape) {
    pieces = 0;
    slots = shape.pieces * static_cast<int64_t>(sizeof(AttentionPiece));
    tokens = slots + shape.rows * 8;
    positions = tokens + shape.rows * 4;
    part_offsets = positions + shape.rows * 4;
    blocks = part_offsets + (shape.rows + 1) * 4;
    // Every chunk has at least one piece.
    entries = (blocks + shape.pieces * kChunkBlocks * 4 + 15) / 16 * 16;
  }
};

int64_t padded_rows(int64_t rows) {
  if (rows > kSmallStep) return rows;
  return rows <= 8 ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))) : (rows + 15) / 16 * 16;
}

// A power of two or three quarters of one, at least 16.
int64_t padded_pieces(int64_t pieces) {
  const auto ceiling = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(pieces, 16))));
  return ceiling > 16 && pieces <= ceiling / 4 * 3 ? ceiling / 4 * 3 : ceiling;
}

// Copies `values` and fills up to `count` with `padding`.
template <typename T>
void copy_padded(const std::vector<T>& values, int64_t count, T padding, char* to) {
  std::memcpy(to, values.data(), values.size() * sizeof(T));
  T* typed = reinterpret_cast<T*>(to);
  std::fill(typed + values.size(), typed + count, padding);
}

}  // namespace

StepShape shape_of(const StepPlan& plan, int64_t group) {
  const int64_t at_most = entries_of_piece(group);
  int64_t pieces = 0;
  for (int64_t i = 0; i < plan.num_items(); ++i) {
    pieces += (plan.entries.offsets[i + 1] - plan.entries.offsets[i] + at_most - 1) / at_most;
  }
  const int64_t rows = padded_rows(plan.num_rows());
  return {rows, rows <= kSmallStep ? padded_pieces(pieces) : pieces};
}

bool StepInputs::send(const StepPlan& plan, const StepShape& shape, int64_t group) {
  const Layout layout(shape);
  const int64_t windows = static_cast<int64_t>(plan.entries.first.size()), entries = plan.num_entries();
  const int64_t bytes = layout.entries + entries * windows * static_cast<int64_t>(sizeof(AttentionEntry));
  // Pinned memory comes from torch's cache, which hands it out again only when the copy below has ended.
  const at::Tensor host = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  char* to = static_cast<char*>(host.data_ptr());

  copy_padded(plan.slots, shape.rows, int64_t{-1}, to + layout.slots);
  copy_padded(plan.tokens, shape.rows, 0, to + layout.tokens);
  copy_padded(plan.positions, shape.rows, 0, to + layout.positions);
  copy_padded(plan.part_offsets, shape.rows + 1, plan.part_offsets.back(), to + layout.part_offsets);
  copy_padded(plan.blocks, shape.pieces * kChunkBlocks, 0, to + layout.blocks);

  std::vector<AttentionPiece> pieces;
  const int32_t at_most = static_cast<int32_t>(entries_of_piece(group));
  for (int64_t i = 0; i < plan.num_items(); ++i) {
    const int32_t end = plan.entries.offsets[i + 1], block = plan.block_offsets[i];
    for (int32_t begin = plan.entries.offsets[i]; begin < end; begin += at_most) {
      pieces.push_back({begin, std::min(end, begin + at_most), block, plan.block_offsets[i + 1] - block});
    }
  }
  copy_padded(pieces, shape.pieces, AttentionPiece{}, to + layout.pieces);

  auto* entry = reinterpret_cast<AttentionEntry*>(to + layout.entries);
  for (int64_t e = 0; e < entries; ++e) {
    for (const auto& [window, first] : plan.entries.first)
      *entry++ = {plan.entries.rows[e], plan.entries.parts[e], first[e], plan.entries.last[e]};
  }

  const bool moved = !memory_.defined() || memory_.size(0) < bytes;
  if (moved) memory_ = at::empty({std::max<int64_t>(2 * bytes, 1 << 20)}, at::TensorOptions(at::kByte).device(device_));
  memory_.narrow(0, 0, bytes).copy_(host, /*non_blocking=*/true);
  return moved;
}

int32_t* StepInputs::tokens(const StepShape& shape) {
  return reinterpret_cast<int32_t*>(static_cast<char*>(memory_.data_ptr()) + Layout(shape).tokens);
}

DeviceStep StepInputs::at(const StepShape& shape) const {
  const Layout layout(shape);
  const char* from = static_cast<const char*>(memory_.const_data_ptr());
  return {.pieces = reinterpret_cast<const AttentionPiece*>(from + layout.pieces),
          .slots = reinterpret_cast<const int64_t*>(from + layout.slots),
          .tokens = reinterpret_cast<const int32_t*>(from + layout.tokens),
          .positions = reinterpret_cast<const int32_t*>(from + layout.positions),
          .part_offsets = reinterpret_cast<const int32_t*>(from + layout.part_offsets),
          .blocks = reinterpret_cast<const int32_t*>(from + layout.blocks),
          .entries = reinterpret_cast<const AttentionEntry*>(from + layout.entries)};
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
