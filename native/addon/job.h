// One piece of work for an engine thread: what to run there, and how to hand its result to JavaScript.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "addon/errors.h"
#include "addon/napi_setup.h"
#include "stepward/cancel.h"

namespace stepward::addon {

// Made on the JS thread, and destroyed there where it holds JavaScript references (on_progress); `run` alone is called
// on the engine thread.
struct Job {
  std::function<void()> run;
  std::function<Napi::Value(Napi::Env)> result;  // after a run that did not throw
  std::function<void()> settled;                 // last, however the job ended; may be empty
  std::shared_ptr<CancelFlag> cancel;            // may be empty: the job cannot be cancelled
  bool gradients = false;                        // grad mode during `run`
  // Rollout requests: may start while others are in flight, where any other job waits for them to end; and are over not
  // after `run` but when the engine has called their end.
  bool overlaps = false, ends_later = false;
  bool ended = false;  // engine thread: of a job with ends_later
  std::optional<Napi::Promise::Deferred> deferred;
  std::optional<Failure> failure;  // set by the engine thread, or when cancelled in the queue

  Napi::FunctionReference on_progress;  // may be empty
  std::atomic<int64_t> progress{0};
  std::atomic<bool> progress_waiting{false};  // reported and not yet handed to on_progress
};

// run() -> T on the engine thread, convert(env, T&&) -> Napi::Value on the JS thread.
template <typename Run, typename Convert>
std::shared_ptr<Job> make_job(Napi::Env env, Run run, Convert convert) {
  using T = std::invoke_result_t<Run>;
  auto job = std::make_shared<Job>();
  if constexpr (std::is_void_v<T>) {
    job->run = std::move(run);
    job->result = std::move(convert);
  } else {
    auto value = std::make_shared<std::optional<T>>();
    job->run = [run = std::move(run), value] { value->emplace(run()); };
    job->result = [convert = std::move(convert), value](Napi::Env e) -> Napi::Value {
      return convert(e, std::move(**value));
    };
  }
  job->deferred.emplace(Napi::Promise::Deferred::New(env));
  return job;
}

inline Napi::Value undefined(Napi::Env env) {
  return env.Undefined();
}

}  // namespace stepward::addon
