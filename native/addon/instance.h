// What the addon keeps per JavaScript environment (the main thread and each worker thread have their own): its engines,
// the jobs they finished, the count of live handles, and an orderly end.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "addon/engine.h"
#include "addon/job.h"
#include "addon/napi_setup.h"

namespace stepward::addon {

class Instance : public std::enable_shared_from_this<Instance> {
 public:
  // Makes the environment's instance, and ends it before the environment does.
  static void create(Napi::Env env);
  static const std::shared_ptr<Instance>& of(Napi::Env env);

  // --- JS thread ---
  // A new engine with its thread, in use by nobody yet.
  Engine& add_engine();
  // Queues a job; the returned promise settles with it. While a promise is pending the process stays alive.
  Napi::Promise submit(Engine& engine, JobPtr job);
  // Queues a job that nobody waits for.
  void send(Engine& engine, JobPtr job);
  // One user of the engine less (see Engine): runs `cleanup` on its thread after what is queued; with the last user the
  // model goes too and the thread ends. `deferred`, if any, resolves when that is done.
  void release(Engine& engine, std::function<void()> cleanup, std::optional<Napi::Promise::Deferred> deferred);
  // Rejects every queued job that waits with a cancelled token.
  void reject_cancelled();
  // Cancels what runs, drops what is queued, and joins every engine thread. Called when the process or the worker ends;
  // promises still pending then never settle. Later calls do nothing.
  void shut_down();
  bool ended() const { return ended_; }

  int64_t live_handles = 0;

  // --- engine threads ---
  void finished(JobPtr job);
  void progressed(const JobPtr& job, int64_t value);

 private:
  explicit Instance(Napi::Env env) : env_(env) {}
  static void on_wake(Napi::Env env, Napi::Function, Instance* instance, void*);
  using Wakeup = Napi::TypedThreadSafeFunction<Instance, void, &Instance::on_wake>;

  void enqueue(JobPtr job);
  void wake();
  void drain();
  void settle(const JobPtr& job);
  void reject_unstarted(const JobPtr& job);

  Napi::Env env_;
  Wakeup wakeup_;
  std::atomic<bool> woken_{false};
  bool ended_ = false;
  int64_t pending_ = 0;  // promises not settled yet
  std::vector<std::shared_ptr<Engine>> engines_;

  std::mutex mutex_;  // guards the two lists
  std::vector<JobPtr> finished_;
  std::vector<JobPtr> progressed_;
};

}  // namespace stepward::addon
