#include "addon/engine_thread.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <utility>

#include "addon/threads.h"

namespace stepward::addon {
namespace {

void run(Job& job) {
  // Grad and inference mode are thread-local, and a tensor made in inference mode can never be trained: both are set
  // for every job, inference mode first because it sets grad mode too.
  const c10::InferenceMode no_inference(false);
  const c10::AutoGradMode gradients(job.gradients);
  try {
    apply_threads();
    if (job.cancel) job.cancel->check();
    job.run();
  } catch (...) {
    job.failure = describe(std::current_exception());
  }
  job.run = nullptr;  // what it captured, tensors included, is freed on this thread
}

}  // namespace

EngineThread::EngineThread(std::function<void(JobPtr)> done, std::function<bool()> step, std::function<void()> at_exit)
    : done_(std::move(done)), step_(std::move(step)), at_exit_(std::move(at_exit)), thread_([this] { loop(); }) {}

EngineThread::~EngineThread() {
  join();
}

void EngineThread::push(JobPtr job) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void EngineThread::push_last(JobPtr job) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    ending_ = true;
  }
  wake_.notify_one();
}

std::vector<JobPtr> EngineThread::take_cancelled() {
  std::vector<JobPtr> taken;
  const std::lock_guard lock(mutex_);
  for (auto it = queue_.begin(); it != queue_.end();) {
    if ((*it)->cancel && (*it)->cancel->cancelled()) {
      taken.push_back(std::move(*it));
      it = queue_.erase(it);
    } else {
      ++it;
    }
  }
  return taken;
}

std::vector<JobPtr> EngineThread::abandon() {
  std::vector<JobPtr> dropped;
  {
    const std::lock_guard lock(mutex_);
    dropped.assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(queue_.end()));
    queue_.clear();
    if (running_) running_->cancel();
    abandoned_ = true;
    ending_ = true;
  }
  wake_.notify_one();
  return dropped;
}

void EngineThread::join() {
  if (thread_.joinable()) thread_.join();
}

JobPtr EngineThread::next(bool wait) {
  std::unique_lock lock(mutex_);
  running_ = nullptr;
  if (wait) wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
  if (queue_.empty()) return nullptr;
  JobPtr job = std::move(queue_.front());
  queue_.pop_front();
  running_ = job->cancel;
  return job;
}

bool EngineThread::drain(const Job& waiting) {
  while (!abandoned_) {
    if (waiting.cancel && waiting.cancel->cancelled()) return false;
    if (!step_()) return true;
  }
  return false;
}

// Jobs first, so that what they start joins the next step.
void EngineThread::loop() {
  bool stepping = false;
  while (true) {
    JobPtr job = next(!stepping);
    if (job == nullptr) {
      if (!stepping || abandoned_) break;
      apply_threads();
      stepping = step_();
      continue;
    }
    if (job->overlaps) {
      stepping = true;
    } else if (stepping) {
      stepping = !drain(*job);  // a job cancelled meanwhile does nothing but say so
    }
    run(*job);
    if (!job->ends_later || (job->failure && !job->ended)) done_(std::move(job));  // a start that failed is an end
  }
  at_exit_();
}

}  // namespace stepward::addon
