// Forest checks and the positions, intervals and transitions of a packed forest. Plain integers, no tensors.
#include "stepward/forest.h"

#include <algorithm>

#include "stepward/error.h"

namespace stepward {

void validate_forest(const Forest& forest, int64_t vocab_size, int64_t max_positions) {
  const int64_t segments = forest.num_segments(), tokens = forest.num_tokens();
  if (static_cast<int64_t>(forest.offsets.size()) != segments + 1) {
    fail(ErrorCode::INVALID_ARGUMENT, "forest.offsets: expected ", segments + 1, " entries (segments + 1), got ",
         forest.offsets.size());
  }
  if (forest.offsets.front() != 0 || forest.offsets.back() != tokens) {
    fail(ErrorCode::INVALID_ARGUMENT, "forest.offsets: expected to run from 0 to ", tokens, " (tokens), got ",
         forest.offsets.front(), " to ", forest.offsets.back());
  }
  std::vector<int64_t> path_length(segments);
  int32_t root = -1;
  for (int64_t s = 0; s < segments; ++s) {
    const int32_t parent = forest.parents[s], length = forest.offsets[s + 1] - forest.offsets[s];
    if (length < 0) fail(ErrorCode::INVALID_ARGUMENT, "forest.offsets: segment ", s, " ends before it starts");
    if (forest.offsets[s + 1] > tokens) {
      fail(ErrorCode::INVALID_ARGUMENT, "forest.offsets: segment ", s, " ends at ", forest.offsets[s + 1],
           ", after the last of ", tokens, " tokens");
    }
    if (parent < -1 || parent >= s) {
      fail(ErrorCode::INVALID_ARGUMENT, "forest.parents: segment ", s, " needs a parent before it or -1, got ", parent);
    }
    if (parent == -1) {
      root = static_cast<int32_t>(s);
    } else if (parent < root) {
      fail(ErrorCode::INVALID_ARGUMENT, "forest.parents: segment ", s, " has parent ", parent,
           ", which belongs to a tree that ended at segment ", root, "; the segments of a tree must be contiguous");
    }
    path_length[s] = length + (parent < 0 ? 0 : path_length[parent]);
    if (path_length[s] > max_positions) {
      fail(ErrorCode::CONTEXT_TOO_LONG, "a path of ", path_length[s], " tokens (to segment ", s,
           ") is longer than the model's ", max_positions, " positions");
    }
    for (int32_t t = forest.offsets[s]; t < forest.offsets[s + 1]; ++t) {
      if (forest.tokens[t] < 0 || forest.tokens[t] >= vocab_size) {
        fail(ErrorCode::TOKEN_OUT_OF_RANGE, "token id ", forest.tokens[t], " at position ", t - forest.offsets[s],
             " of segment ", s, " is not in [0, ", vocab_size, ")");
      }
    }
  }
}

void validate_nodes(const Forest& forest, const std::vector<int32_t>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i] < 0 || nodes[i] >= forest.num_segments()) {
      fail(ErrorCode::INVALID_ARGUMENT, "nodes: entry ", i, " is ", nodes[i], ", expected a segment in [0, ",
           forest.num_segments(), ")");
    }
  }
}

void validate_ids(const char* name, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorCode::TOKEN_OUT_OF_RANGE, name, ": ", id, " is not in [0, ", vocab_size, ")");
    }
  }
}

PackedForest pack_forest(const Forest& forest) {
  const int32_t segments = static_cast<int32_t>(forest.num_segments());
  const int64_t tokens = forest.num_tokens();
  PackedForest packed;
  packed.position.resize(tokens);
  packed.segment.resize(tokens);
  packed.source.resize(tokens);
  packed.enter.assign(segments, 0);
  packed.exit.assign(segments, 0);
  packed.start.resize(segments);
  packed.last_token.resize(segments);

  for (int32_t s = 0; s < segments; ++s) {
    const int32_t parent = forest.parents[s], first = forest.offsets[s], last = forest.offsets[s + 1];
    if (parent < 0) packed.tree_first.push_back(s);
    packed.start[s] = parent < 0 ? 0 : packed.start[parent] + forest.offsets[parent + 1] - forest.offsets[parent];
    const int32_t before = parent < 0 ? -1 : packed.last_token[parent];
    for (int32_t t = first; t < last; ++t) {
      packed.position[t] = packed.start[s] + t - first;
      packed.segment[t] = s;
      packed.source[t] = t == first ? before : t - 1;
    }
    packed.last_token[s] = last > first ? last - 1 : before;
  }
  packed.tree_first.push_back(segments);

  // Subtree sizes bottom-up, then entry times top-down: children of a segment take consecutive intervals in index
  // order.
  std::vector<int32_t> size(segments, 1), next(segments, 0);
  for (int32_t s = segments - 1; s >= 0; --s) {
    if (forest.parents[s] >= 0) size[forest.parents[s]] += size[s];
  }
  int32_t clock = 0;
  for (int32_t s = 0; s < segments; ++s) {
    const int32_t parent = forest.parents[s];
    int32_t& slot = parent < 0 ? clock : next[parent];
    packed.enter[s] = slot;
    packed.exit[s] = slot + size[s];
    slot += size[s];
    next[s] = packed.enter[s] + 1;
  }
  return packed;
}

std::vector<int32_t> path_to(const Forest& forest, int32_t segment) {
  std::vector<int32_t> path;
  for (int32_t s = segment; s >= 0; s = forest.parents[s]) path.push_back(s);
  std::reverse(path.begin(), path.end());
  return path;
}

}  // namespace stepward
