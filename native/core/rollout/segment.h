// A run of tokens in the rollout engine's token tree: what it holds, who needs it, and how much of it is computed.
#pragma once

#include <cstdint>
#include <vector>

namespace stepward {

struct Segment {
  Segment* parent = nullptr;
  int32_t children = 0;
  int64_t start = 0;            // position of its first token
  std::vector<int32_t> tokens;  // never empty once it is closed
  bool open = false;            // still being sampled: it grows, and no look-up finds it
  bool findable = false;        // in the index of its parent's children

  // Tokens [0, computed) have their keys and values in `blocks`, 32 a block. They may be taken away at any time that no
  // step is using them, and are computed again when they are needed.
  int64_t computed = 0;
  std::vector<int32_t> blocks;
  int32_t hidden = -1;  // the decoder's slot with the last token's hidden state, once all of a closed segment is computed

  int32_t holds = 0;  // handles of callers on it and on what lies below it
  int32_t tasks = 0;  // requests in flight that go through it
  int32_t pins = 0;   // the step being planned or run uses it
  uint64_t used = 0;  // the last step that used it

  // Of the step being planned.
  int64_t planned = 0;       // computed, once it has run
  int64_t hidden_row = -1;   // row of the step that holds the last token's hidden state
  int32_t first_item = -1;   // of its chunks, see step_plan.h

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t end() const { return start + length(); }
  bool complete() const { return computed == length(); }
  bool referenced() const { return holds > 0 || children > 0 || tasks > 0 || pins > 0; }
};

// Segments from the root down to `segment`, inclusive.
inline std::vector<Segment*> path_of(Segment* segment) {
  std::vector<Segment*> path;
  for (Segment* s = segment; s != nullptr; s = s->parent) path.push_back(s);
  return {path.rbegin(), path.rend()};
}

}  // namespace stepward
