// Continuous batching: which tokens of which requests make the next step, and what the step's results mean for them.
// Requests of earlier trees go first, so that open trees are finished before others take memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "core/rollout/decoder.h"
#include "core/rollout/segment_tree.h"
#include "core/rollout/task.h"

namespace stepward {

class Scheduler {
 public:
  Scheduler(const Model& model, Decoder& decoder, SegmentTree& tree, const RolloutOptions& options);

  // Takes over the task; its node must be held for it.
  void add(std::unique_ptr<Task> task);
  bool idle() const { return tasks_.empty(); }
  // One step; false when idle.
  bool step();
  void drop_cancelled();
  void fail_all(const std::exception_ptr& error);

  RolloutCounters& counters() { return counters_; }

 private:
  using Key = std::pair<int64_t, int64_t>;  // priority, sequence

  // What the step does for a task beside computing its path.
  struct Ready {
    Task* task;
    bool first_draw;
    std::vector<size_t> rows;  // those that draw
  };

  void plan();
  // False where memory or tokens ran out before all of the task's path was planned.
  bool plan_path(Task& task);
  bool plan_rows(Task& task, Ready& ready);
  bool plan_span(Segment* segment, int64_t to, bool decode);
  void pin(Segment* segment);
  bool admit(const Task& task) const;
  void run();
  void draw();
  void read();
  int64_t plan_ahead();
  void run_ahead(int64_t count);
  static DrawQuery draw_of(const Task& task, size_t row, int64_t drawn, HiddenRef hidden);
  void take_sample(Task& task, SampleRow& row, const kernels::Sample& sample);
  void finish_sampled(const std::set<Task*>& bad);
  void finish(Task& task, std::exception_ptr error);
  void end_step();

  const Model& model_;
  Decoder& decoder_;
  SegmentTree& tree_;
  const RolloutOptions options_;
  std::vector<int64_t> windows_;
  int64_t least_shared_;
  int64_t most_steps_;  // to run ahead
  std::map<Key, std::unique_ptr<Task>> tasks_;
  int64_t next_sequence_ = 0;
  uint64_t step_ = 0;
  RolloutCounters counters_;

  // Of the step being planned or run.
  std::vector<Segment*> pinned_;
  std::vector<StepSpan> spans_;
  std::map<const Segment*, std::vector<Task*>> scorers_;
  std::vector<Ready> ready_;
  int64_t prompt_rows_ = 0, decode_rows_ = 0;
  bool out_of_memory_ = false;
};

}  // namespace stepward
