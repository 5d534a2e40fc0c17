// The parts of a rollout engine, and the segments its callers hold by number.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "core/rollout/decoder.h"
#include "core/rollout/scheduler.h"
#include "core/rollout/segment_tree.h"
#include "stepward/rollout.h"

namespace stepward {

class Rollout::State {
 public:
  State(const Model& model, const RolloutOptions& options);
  State(const Model& model, const RolloutOptions& options, std::unique_ptr<Decoder> decoder);
  ~State();

  // A segment after `parent`, checked; found again where there is an equal one and sharing is on.
  Segment* add(Segment* parent, const std::vector<int32_t>& tokens, const char* name);
  Segment* add_private(Segment* parent, const std::vector<int32_t>& tokens, const char* name);
  Segment* held(NodeId node) const;
  NodeId hold(Segment* segment, std::shared_ptr<std::vector<NodeId>> siblings = nullptr);
  void let_go(NodeId node);

  // A task on a held segment. `done` gets values, or the failure.
  std::unique_ptr<Task> task(Task::Kind kind, Segment* node, int64_t priority,
                             std::shared_ptr<const CancelFlag> cancel);
  // Log-probs of the segment's tokens, or of labels after it; takes over one handle on the segment.
  void score(Segment* segment, int64_t priority, std::shared_ptr<const CancelFlag> cancel, ValuesDone done);
  void readout(Segment* segment, const std::vector<int32_t>& labels, int64_t priority,
               std::shared_ptr<const CancelFlag> cancel, ValuesDone done);
  // ask(segment, done) for the segment that add(suffix) gives of every suffix, all made before the first is asked; `done` gets
  // the values end to end.
  template <typename Add, typename Ask>
  void each_suffix(const std::vector<std::vector<int32_t>>& suffixes, const Add& add, ValuesDone done, const Ask& ask);
  // Samples after a segment. `keep`: candidates stay in the tree, as nodes.
  void sample(Segment* segment, std::shared_ptr<const Sampling> sampling, int32_t samples, bool keep, int64_t priority,
              std::shared_ptr<const CancelFlag> cancel, const std::function<void()>& row_done, ForkDone done);

  // Packs the weights again where they have changed, which makes every key and value stale.
  void follow_weights();
  bool step();

  const Model& model;
  const RolloutOptions options;
  std::unique_ptr<Decoder> decoder;
  SegmentTree tree;
  Scheduler scheduler;

 private:
  static Candidate candidate_of(const SampleRow& row);

  struct Held {
    Segment* segment;
    std::shared_ptr<std::vector<NodeId>> siblings;  // of a fork
  };

  std::unordered_map<NodeId, Held> nodes_;
  NodeId last_node_ = 0;
  uint64_t weights_version_ = 0;
  bool loaded_ = false;

  friend class Rollout;
};

// Checked sampling options with their stop texts compiled.
std::shared_ptr<const Sampling> compile_sampling(const Model& model, const TokenBytes& token_bytes,
                                                 const SamplingOptions& options, uint64_t tree_key, int32_t step,
                                                 int32_t first_candidate);

}  // namespace stepward
