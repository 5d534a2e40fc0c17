// The token tree, Stepward's one idea: what is sampled into, scored, judged, packed and differentiated.
// A Forest is plain data; a PackedForest adds what a forward pass needs. Neither knows tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace stepward {

// Several token trees laid out flat, parents before children. Segment s owns tokens[offsets[s] .. offsets[s+1]).
// A segment with parent -1 is the root of a tree; the segments of one tree are contiguous.
struct Forest {
  std::vector<int32_t> tokens;   // [T] token ids
  std::vector<int32_t> offsets;  // [S+1], offsets[0] = 0, ascending, last = T; an empty segment is allowed
  std::vector<int32_t> parents;  // [S], parents[s] < s, or -1 for a root

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_segments() const { return static_cast<int64_t>(parents.size()); }
};

// Checks shape and token range. Throws INVALID_ARGUMENT or TOKEN_OUT_OF_RANGE (naming segment and position), and
// CONTEXT_TOO_LONG where a path from a root is longer than max_positions.
void validate_forest(const Forest& forest, int64_t vocab_size, int64_t max_positions);

// Where each token stands in its tree. "A query sees a key iff the key's segment is an ancestor of (or is) the query's
// segment and comes no later": ancestor tests compare depth-first entry/exit intervals.
struct PackedForest {
  std::vector<int32_t> position;  // [T] tokens from the root, 0 for the first
  std::vector<int32_t> segment;   // [T] owning segment
  std::vector<int32_t>
      source;  // [T] token whose hidden state predicts this one (transition indexing); -1: a root's first
  std::vector<int32_t> enter;  // [S] depth-first entry time
  std::vector<int32_t>
      exit;  // [S] depth-first exit time; a is an ancestor of b (or b) iff enter[a] <= enter[b] < exit[a]
  std::vector<int32_t> start;       // [S] position of the segment's first token
  std::vector<int32_t> tree_first;  // [R+1] first segment of each tree
  std::vector<int32_t> last_token;  // [S] last token at or above the segment: what its children's first tokens are
                                    // predicted from; -1: none

  bool is_ancestor(int32_t a, int32_t b) const { return enter[a] <= enter[b] && enter[b] < exit[a]; }
  int64_t num_trees() const { return static_cast<int64_t>(tree_first.size()) - 1; }
};

// Checks that each of `nodes` is a segment; INVALID_ARGUMENT names the entry.
void validate_nodes(const Forest& forest, const std::vector<int32_t>& nodes);

// Checks that each id is in [0, vocab_size); TOKEN_OUT_OF_RANGE names `name` and the id.
void validate_ids(const char* name, const std::vector<int32_t>& ids, int64_t vocab_size);

// The forest must have passed validate_forest: nothing is checked again here.
PackedForest pack_forest(const Forest& forest);

// Segments from the root down to `segment`, inclusive.
std::vector<int32_t> path_to(const Forest& forest, int32_t segment);

}  // namespace stepward
