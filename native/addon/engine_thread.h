// The thread that owns an engine's tensors: a FIFO of jobs, run one at a time, and between them the steps of what they
// started. Knows nothing of JavaScript; finished jobs are handed to `done`, which is called on this thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "addon/job.h"

namespace stepward::addon {

using JobPtr = std::shared_ptr<Job>;

class EngineThread {
 public:
  // `step` does a piece of the work that overlapping jobs started, false when there is none. `at_exit` runs on the
  // thread after its last job, before it ends: tensors are freed where they were made.
  EngineThread(std::function<void(JobPtr)> done, std::function<bool()> step, std::function<void()> at_exit);
  // The thread must have been joined.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  void push(JobPtr job);
  // Queues `job` as the last one; the thread ends after it.
  void push_last(JobPtr job);
  // Takes out of the queue, in order, every job whose token is cancelled. A running job sees its flag by itself.
  std::vector<JobPtr> take_cancelled();
  // Cancels the running job, empties the queue into the result and lets the thread end. join() then takes at most one
  // token or micro-batch, or the rest of a job that cannot be cancelled.
  std::vector<JobPtr> abandon();
  void join();

  // On the thread: a job with `ends_later` is over.
  void end(JobPtr job) {
    job->ended = true;
    done_(std::move(job));
  }

 private:
  void loop();
  // Steps until what is in flight has ended, or `waiting` was cancelled meanwhile. True where nothing is left.
  bool drain(const Job& waiting);
  // The next job; null where there is none and `wait` is false, or where none will come.
  JobPtr next(bool wait);

  const std::function<void(JobPtr)> done_;
  const std::function<bool()> step_;
  const std::function<void()> at_exit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<JobPtr> queue_;
  std::shared_ptr<CancelFlag> running_;  // token of the running job
  bool ending_ = false;                  // no more jobs will come
  std::atomic<bool> abandoned_{false};   // what is in flight is of no use any more
  std::thread thread_;                   // last: starts when everything above exists
};

}  // namespace stepward::addon
