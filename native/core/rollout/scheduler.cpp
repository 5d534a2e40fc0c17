#include "core/rollout/scheduler.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "stepward/error.h"

namespace stepward {
namespace {

// Rows that continue a sample in one step. More gain nothing: products have long reached their rate.
constexpr int64_t kDecodeRows = 512;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The hidden state of a complete segment's last token.
HiddenRef last_hidden(const Segment& segment) {
  return segment.hidden_row >= 0 ? HiddenRef{false, segment.hidden_row} : HiddenRef{true, segment.hidden};
}

std::exception_ptr error_of(ErrorCode code, const std::string& message) {
  return std::make_exception_ptr(Error(code, message));
}

}  // namespace

Scheduler::Scheduler(const Model& model, Decoder& decoder, SegmentTree& tree, const RolloutOptions& options)
    : model_(model), decoder_(decoder), tree_(tree), options_(options) {
  const std::set<int64_t> distinct(model.config().window.begin(), model.config().window.end());
  windows_.assign(distinct.begin(), distinct.end());
  least_shared_ = options.share ? decoder.sharing_threshold() : std::numeric_limits<int64_t>::max();
  most_steps_ = options.steps_ahead > 0 ? options.steps_ahead : decoder.steps_ahead();
}

void Scheduler::add(std::unique_ptr<Task> task) {
  task->sequence = next_sequence_++;
  tree_.begin_task(task->node);
  const Key key{task->priority, task->sequence};
  tasks_.emplace(key, std::move(task));
}

bool Scheduler::step() {
  drop_cancelled();
  if (tasks_.empty()) return false;
  ++step_;
  try {
    plan();
    if (const int64_t steps = plan_ahead(); steps > 1) {
      run_ahead(steps);
    } else {
      run();
      draw();
      read();
    }
  } catch (...) {
    end_step();
    fail_all(std::current_exception());
    return true;
  }
  end_step();
  return true;
}

void Scheduler::drop_cancelled() {
  std::vector<Task*> cancelled;
  for (const auto& [key, task] : tasks_) {
    if (task->cancel && task->cancel->cancelled()) cancelled.push_back(task.get());
  }
  for (Task* task : cancelled) finish(*task, error_of(ErrorCode::CANCELLED, "the work was cancelled"));
}

void Scheduler::fail_all(const std::exception_ptr& error) {
  while (!tasks_.empty()) finish(*tasks_.begin()->second, error);
}

// ---- Planning

void Scheduler::plan() {
  out_of_memory_ = false;
  prompt_rows_ = decode_rows_ = 0;
  bool admitting = true;  // none is started before one that had to wait
  for (const auto& [key, task] : tasks_) {
    const bool no_prompts = prompt_rows_ >= options_.step_tokens, no_rows = decode_rows_ >= kDecodeRows;
    if (no_prompts && no_rows) break;
    if (!task->started) {
      // More that samples than can be sampled at once would only hold memory.
      const bool useless = no_prompts || (no_rows && task->kind == Task::Kind::sample);
      if (!admitting || useless || !admit(*task)) {
        admitting = false;
        continue;
      }
    }
    pin(task->node);
    if (!plan_path(*task)) {
      if (out_of_memory_) break;
      continue;
    }
    task->started = true;
    Ready ready{task.get(), false, {}};
    if (task->kind != Task::Kind::sample || plan_rows(*task, ready)) ready_.push_back(std::move(ready));
    if (out_of_memory_) break;
  }
  if (out_of_memory_ && spans_.empty() && ready_.empty()) {
    // The first in line, with nothing else in the way.
    Task& task = *tasks_.begin()->second;
    const KvPool& pool = tree_.pool();
    finish(task, error_of(ErrorCode::OUT_OF_MEMORY,
                          "the budget for keys and values (" + std::to_string(pool.capacity() * pool.block_bytes()) +
                              " bytes) holds " + std::to_string(pool.capacity()) +
                              " blocks of 32 tokens, less than a path of " + std::to_string(task.node->end() + 1) +
                              " tokens needs whose segments each begin a block; raise the budget"));
  }
}

// A task that has not begun must not take what those before it will need to go on.
bool Scheduler::admit(const Task& task) const {
  int64_t blocks = decode_rows_;
  for (const Segment* s = task.node; s != nullptr; s = s->parent) {
    blocks += SegmentTree::blocks_missing(*s, 0);
  }
  return spans_.empty() || tree_.could_spare(blocks + task.samples);
}

void Scheduler::pin(Segment* segment) {
  for (Segment* s = segment; s != nullptr; s = s->parent) {
    if (s->pins++ > 0) continue;
    s->planned = s->computed;
    pinned_.push_back(s);
    tree_.touch(s, step_);
  }
}

bool Scheduler::plan_path(Task& task) {
  for (Segment* segment : path_of(task.node)) {
    const int64_t needed = segment == task.node ? task.needed() : segment->length();
    if (segment->planned < needed && !plan_span(segment, needed, false)) return false;
  }
  return true;
}

bool Scheduler::plan_rows(Task& task, Ready& ready) {
  if (task.rows.empty()) {
    ready.first_draw = true;
    return true;
  }
  for (size_t r = 0; r < task.rows.size(); ++r) {
    SampleRow& row = task.rows[r];
    if (row.ended) continue;
    pin(row.segment);
    // More than the last draw is missing where the row's keys and values were taken away.
    if (row.segment->length() - row.segment->planned > 1 &&
        !plan_span(row.segment, row.segment->length() - 1, false))
      continue;
    if (plan_span(row.segment, row.segment->length(), true)) ready.rows.push_back(r);
    if (out_of_memory_) break;
  }
  return !ready.rows.empty();
}

// Plans tokens of the segment up to `to`, as far as the step has room. True where all of them are planned.
bool Scheduler::plan_span(Segment* segment, int64_t to, bool decode) {
  const int64_t room = decode ? kDecodeRows - decode_rows_ : options_.step_tokens - prompt_rows_;
  const int64_t end = std::min(to, segment->planned + room);
  if (end <= segment->planned) return false;
  if (!tree_.reserve(segment, end)) {
    out_of_memory_ = true;
    return false;
  }
  const int64_t count = end - segment->planned;
  (decode ? decode_rows_ : prompt_rows_) += count;
  // A span that continues one of this step is part of it.
  if (!spans_.empty() && spans_.back().segment == segment && spans_.back().to == segment->planned) {
    spans_.back().to = end;
  } else {
    spans_.push_back({segment, segment->planned, end});
  }
  segment->planned = end;
  return end == to;
}

// ---- Running

void Scheduler::run() {
  if (spans_.empty()) return;
  const double start = now();
  for (const auto& [key, task] : tasks_) {
    if (task->kind == Task::Kind::score && task->node->pins > 0) scorers_[task->node].push_back(task.get());
  }
  for (StepSpan& span : spans_) span.scored = scorers_.contains(span.segment);
  const StepPlan plan = plan_step(spans_, least_shared_, windows_);
  decoder_.run(plan);
  int64_t row = 0;
  for (const StepSpan& span : spans_) {
    row += span.to - span.from;
    Segment& segment = *span.segment;
    // Last, as storing may fail: a complete segment has its hidden state.
    if (span.to == segment.length()) {
      segment.hidden_row = row - 1;
      if (!segment.open && segment.hidden < 0) segment.hidden = decoder_.store_hidden(row - 1);
    }
    segment.computed = span.to;
  }
  const double seconds = now() - start, rows = static_cast<double>(prompt_rows_ + decode_rows_);
  ++counters_.steps;
  counters_.decode_steps += decode_rows_ > 0;
  counters_.decode_rows += decode_rows_;
  counters_.prompt_tokens_computed += prompt_rows_;
  counters_.decode_seconds += seconds * static_cast<double>(decode_rows_) / rows;
  counters_.prefill_seconds += seconds * static_cast<double>(prompt_rows_) / rows;
}

void Scheduler::draw() {
  struct Target {
    Task* task;
    size_t row;
  };
  std::vector<DrawQuery> queries;
  std::vector<Target> targets;
  for (Ready& ready : ready_) {
    Task& task = *ready.task;
    if (task.kind != Task::Kind::sample) continue;
    if (ready.first_draw) {
      task.rows.resize(task.samples);
      task.rows_left = task.samples;
      for (SampleRow& row : task.rows) {
        row.segment = tree_.open_child(task.node);
        tree_.begin_task(row.segment);
      }
      ready.rows.resize(task.rows.size());
      for (size_t r = 0; r < task.rows.size(); ++r) ready.rows[r] = r;
    }
    for (const size_t r : ready.rows) {
      const SampleRow& row = task.rows[r];
      const HiddenRef hidden = ready.first_draw ? last_hidden(*task.node) : last_hidden(*row.segment);
      queries.push_back(draw_of(task, r, static_cast<int64_t>(row.drawn.size()), hidden));
      targets.push_back({&task, r});
    }
  }
  if (queries.empty()) return;
  const double start = now();
  decoder_.draw(queries);
  counters_.decode_seconds += now() - start;
  counters_.sampled_tokens += static_cast<int64_t>(queries.size());
  std::set<Task*> bad;
  for (size_t i = 0; i < queries.size(); ++i) {
    if (queries[i].bad) bad.insert(targets[i].task);
  }
  for (size_t i = 0; i < queries.size(); ++i) {
    Task& task = *targets[i].task;
    if (!bad.contains(&task)) take_sample(task, task.rows[targets[i].row], queries[i].sample);
  }
  finish_sampled(bad);
}

// The draw after a row has `drawn` tokens.
DrawQuery Scheduler::draw_of(const Task& task, size_t row, int64_t drawn, HiddenRef hidden) {
  const Sampling& sampling = *task.sampling;
  DrawQuery query{};
  query.hidden = hidden;
  query.key = {sampling.tree_key, sampling.step, sampling.first_candidate + static_cast<uint32_t>(row),
               static_cast<uint32_t>(drawn), drawn < sampling.options.min_new_tokens ? 1u : 0u};
  query.params = &sampling.params;
  query.barred = &sampling.options.eos_ids;
  return query;
}

// Ends the requests whose rows have all ended, and those that could not be drawn for.
void Scheduler::finish_sampled(const std::set<Task*>& bad) {
  std::vector<Task*> over;
  for (const Ready& ready : ready_) {
    if (ready.task->kind == Task::Kind::sample && ready.task->rows_left == 0 && !bad.contains(ready.task))
      over.push_back(ready.task);
  }
  std::erase_if(ready_, [](const Ready& ready) { return ready.task->kind == Task::Kind::sample; });  // soon gone
  for (Task* task : over) finish(*task, nullptr);
  for (Task* task : bad) {
    finish(*task, error_of(ErrorCode::NUMERICAL,
                           "sampling: a row has a NaN or infinite logit, or no token left to draw"));
  }
}

void Scheduler::take_sample(Task& task, SampleRow& row, const kernels::Sample& sample) {
  const SamplingOptions& options = task.sampling->options;
  Segment* segment = row.segment;
  segment->tokens.push_back(sample.id);
  row.drawn.push_back(sample);
  const int64_t drawn = static_cast<int64_t>(row.drawn.size());
  const auto end = [&](Finish finish) {
    row.ended = true;
    row.finish = finish;
    --task.rows_left;
    tree_.end_task(segment);
  };
  if (std::find(options.eos_ids.begin(), options.eos_ids.end(), sample.id) != options.eos_ids.end())
    return end(Finish::eos);
  const bool stopped = task.sampling->stop.add(row.text, sample.id);
  if (stopped && drawn >= options.min_new_tokens) return end(Finish::stop);
  if (drawn >= options.max_new_tokens || segment->end() >= model_.config().max_positions) end(Finish::length);
}

// How many steps may run before their draws are looked at: one, unless this step is nothing but rows that continue. More
// must neither pass the model's last position nor take memory from requests in flight. Reserves theirs.
int64_t Scheduler::plan_ahead() {
  if (most_steps_ <= 1 || prompt_rows_ > 0 || out_of_memory_ || ready_.empty()) return 1;
  int64_t wanted = 0, steps = most_steps_;
  for (const Ready& ready : ready_) {
    if (ready.task->kind != Task::Kind::sample || ready.first_draw) return 1;
    for (const size_t r : ready.rows) {
      const SampleRow& row = ready.task->rows[r];
      wanted = std::max(wanted, ready.task->sampling->options.max_new_tokens - static_cast<int64_t>(row.drawn.size()));
      steps = std::min(steps, model_.config().max_positions - row.segment->end() + 1);
    }
  }
  steps = std::min(steps, wanted);
  int64_t blocks = 0;
  for (const Ready& ready : ready_) {
    for (const size_t r : ready.rows) blocks += tree_.blocks_missing(*ready.task->rows[r].segment, steps - 1);
  }
  if (!tree_.could_spare(blocks)) return 1;
  for (const Ready& ready : ready_) {
    for (const size_t r : ready.rows) {
      Segment* segment = ready.task->rows[r].segment;
      if (!tree_.reserve(segment, segment->length() + steps - 1)) return 1;  // could_spare() said that there is room
    }
  }
  return steps;
}

// `count` steps of the rows that are ready. Rows that end on the way are run and drawn for nothing until the last one.
void Scheduler::run_ahead(int64_t count) {
  struct Target {
    Task* task;
    size_t row;
    Segment* segment;
  };
  std::vector<Target> targets;
  for (const Ready& ready : ready_) {
    for (const size_t r : ready.rows) targets.push_back({ready.task, r, ready.task->rows[r].segment});
  }
  const double start = now();
  std::vector<DecodeStep> steps(count);
  const std::unique_ptr<DecodeRun> decoding = decoder_.decode_run();
  for (int64_t s = 0; s < count; ++s) {
    std::vector<StepSpan> spans;
    for (const auto& [task, row, segment] : targets) {
      const auto drawn = static_cast<int64_t>(task->rows[row].drawn.size());
      steps[s].draws.push_back(draw_of(*task, row, drawn + s, {false, static_cast<int64_t>(spans.size())}));
      spans.push_back({segment, segment->computed + s, segment->computed + s + 1});
    }
    steps[s].plan = plan_step(spans, least_shared_, windows_);
    decoding->step(steps[s]);
  }
  decoding->collect();
  counters_.decode_seconds += now() - start;
  counters_.steps += count;
  counters_.decode_steps += count;
  counters_.decode_rows += count * static_cast<int64_t>(targets.size());

  std::set<Task*> bad;
  for (const DecodeStep& step : steps) {
    for (size_t i = 0; i < targets.size(); ++i) {
      const auto& [task, row, segment] = targets[i];
      if (step.draws[i].bad && !task->rows[row].ended) bad.insert(task);
    }
    for (size_t i = 0; i < targets.size(); ++i) {
      const auto& [task, row, segment] = targets[i];
      if (task->rows[row].ended || bad.contains(task)) continue;
      segment->computed = segment->length();
      take_sample(*task, task->rows[row], step.draws[i].sample);
      ++counters_.sampled_tokens;
    }
  }
  for (const Target& target : targets) tree_.trim(target.segment);
  finish_sampled(bad);
}

// Log-probs of scored segments, as far as the step computed what predicts them, and of labels.
void Scheduler::read() {
  struct Target {
    Task* task;
    int64_t at;  // first of its values
  };
  std::vector<LogprobQuery> queries;
  std::vector<Target> targets;
  int64_t row = 0;
  for (const StepSpan& span : spans_) {
    const auto found = scorers_.find(span.segment);
    if (found != scorers_.end()) {
      for (Task* task : found->second) {
        for (int64_t i = span.from; i < span.to && i + 1 < span.segment->length(); ++i) {
          queries.push_back({{false, row + i - span.from}, {span.segment->tokens[i + 1]}});
          targets.push_back({task, i + 1});
        }
      }
    }
    row += span.to - span.from;
  }
  std::vector<Task*> over;
  for (const Ready& ready : ready_) {
    Task& task = *ready.task;
    if (task.kind == Task::Kind::sample) continue;
    if (task.kind == Task::Kind::readout) {
      queries.push_back({last_hidden(*task.node), task.labels});
      targets.push_back({&task, 0});
    } else if (task.node->parent != nullptr) {
      queries.push_back({last_hidden(*task.node->parent), {task.node->tokens[0]}});
      targets.push_back({&task, 0});
    }
    over.push_back(&task);
  }
  if (!queries.empty()) {
    const double start = now();
    const std::vector<float> values = decoder_.logprobs(queries);
    counters_.prefill_seconds += now() - start;
    size_t at = 0;
    for (size_t i = 0; i < queries.size(); ++i) {
      for (size_t k = 0; k < queries[i].targets.size(); ++k)
        targets[i].task->values[targets[i].at + static_cast<int64_t>(k)] = values[at++];
    }
  }
  for (Task* task : over) {
    // A root's first token has no log-prob, and NaN says so.
    const size_t first = task->kind == Task::Kind::score && task->node->parent == nullptr ? 1 : 0;
    const bool bad = std::any_of(task->values.begin() + static_cast<int64_t>(first), task->values.end(),
                                 [](float value) { return std::isnan(value); });
    finish(*task, bad ? error_of(ErrorCode::NUMERICAL, "log-probs: the logits hold a NaN") : nullptr);
  }
}

void Scheduler::finish(Task& task, std::exception_ptr error) {
  const auto it = tasks_.find({task.priority, task.sequence});
  const std::unique_ptr<Task> owned = std::move(it->second);
  tasks_.erase(it);
  for (SampleRow& row : task.rows) {
    if (!row.ended) tree_.end_task(row.segment);
  }
  tree_.end_task(task.node);
  task.done(task, error);
}

void Scheduler::end_step() {
  for (Segment* segment : pinned_) {
    segment->pins = 0;
    segment->hidden_row = -1;
  }
  // Whoever was only kept by its pin goes now.
  tree_.sweep(pinned_);
  pinned_.clear();
  spans_.clear();
  scorers_.clear();
  ready_.clear();
}

}  // namespace stepward
