#include "addon/instance.h"

#include <algorithm>
#include <utility>

#include "stepward/error.h"

namespace stepward::addon {

void Instance::create(Napi::Env env) {
  std::shared_ptr<Instance> instance(new Instance(env));
  env.SetInstanceData(new std::shared_ptr<Instance>(instance));

  // Holds the process only while a promise is pending.
  instance->wakeup_ = Wakeup::New(env, "stepward", 0, 1, instance.get());
  instance->wakeup_.Unref(env);

  // Two ends: a worker thread that is terminated runs cleanup hooks but emits no 'exit'; process.exit() emits 'exit'
  // but runs no hooks, and then destroys libtorch's globals under any thread still computing.
  env.AddCleanupHook([](Instance* i) { i->shut_down(); }, instance.get());
  const Napi::Value process_value = env.Global().Get("process");
  if (!process_value.IsObject()) return;
  const auto process = process_value.As<Napi::Object>();
  const auto on_exit = Napi::Function::New(env, [instance](const Napi::CallbackInfo&) { instance->shut_down(); });
  process.Get("once").As<Napi::Function>().Call(process, {Napi::String::New(env, "exit"), on_exit});
}

const std::shared_ptr<Instance>& Instance::of(Napi::Env env) {
  return *env.GetInstanceData<std::shared_ptr<Instance>>();
}

Engine& Instance::add_engine() {
  if (ended_) fail(ErrorCode::CANCELLED, "the process is ending: no model can be loaded any more");
  engines_.push_back(std::make_shared<Engine>([this](JobPtr job) { finished(std::move(job)); }));
  return *engines_.back();
}

Napi::Promise Instance::submit(Engine& engine, JobPtr job) {
  const Napi::Promise promise = job->deferred->Promise();
  enqueue(job);
  if (job->cancel && job->cancel->cancelled()) {
    reject_unstarted(job);
  } else {
    engine.thread.push(std::move(job));
  }
  return promise;
}

void Instance::send(Engine& engine, JobPtr job) {
  engine.thread.push(std::move(job));
}

void Instance::release(Engine& engine, std::function<void()> cleanup, std::optional<Napi::Promise::Deferred> deferred) {
  const bool last = --engine.users == 0;
  auto job = std::make_shared<Job>();
  job->run = [&engine, last, cleanup = std::move(cleanup)] {
    if (cleanup) cleanup();
    if (last) engine.free_tensors();
  };
  job->result = undefined;
  job->deferred = std::move(deferred);
  enqueue(job);
  if (!last) {
    engine.thread.push(std::move(job));
    return;
  }
  job->settled = [this, &engine] {
    engine.thread.join();
    std::erase_if(engines_, [&](const auto& e) { return e.get() == &engine; });
  };
  engine.thread.push_last(std::move(job));
}

void Instance::enqueue(JobPtr job) {
  if (job->deferred && pending_++ == 0) wakeup_.Ref(env_);
}

void Instance::reject_cancelled() {
  for (size_t i = 0; i < engines_.size(); ++i) {
    const auto engine = engines_[i];
    for (const JobPtr& job : engine->thread.take_cancelled()) reject_unstarted(job);
  }
}

void Instance::reject_unstarted(const JobPtr& job) {
  job->failure = Failure{ErrorCode::CANCELLED, "the work was cancelled before it started", ""};
  settle(job);
}

void Instance::shut_down() {
  if (std::exchange(ended_, true)) return;
  std::vector<JobPtr> dropped;
  for (const auto& engine : engines_) {
    for (JobPtr& job : engine->thread.abandon()) dropped.push_back(std::move(job));
  }
  for (const auto& engine : engines_) engine->thread.join();
  // Jobs hold JavaScript references, which must go while the environment still exists.
  const std::lock_guard lock(mutex_);
  finished_.clear();
  progressed_.clear();
  engines_.clear();
}

void Instance::finished(JobPtr job) {
  {
    const std::lock_guard lock(mutex_);
    finished_.push_back(std::move(job));
  }
  wake();
}

void Instance::progressed(const JobPtr& job, int64_t value) {
  job->progress.store(value);
  if (job->progress_waiting.exchange(true)) return;  // the report under way will carry the new value
  {
    const std::lock_guard lock(mutex_);
    progressed_.push_back(job);
  }
  wake();
}

void Instance::wake() {
  // A call after the environment began to end returns napi_closing; shut_down() then drops what is left.
  if (!woken_.exchange(true)) wakeup_.NonBlockingCall();
}

void Instance::on_wake(Napi::Env env, Napi::Function, Instance* instance, void*) {
  if (static_cast<napi_env>(env) != nullptr) instance->drain();
}

void Instance::drain() {
  woken_.store(false);  // before the lists are read, so that nothing added later is missed
  std::vector<JobPtr> progressed, finished;
  {
    const std::lock_guard lock(mutex_);
    progressed.swap(progressed_);
    finished.swap(finished_);
  }
  std::optional<Napi::Error> thrown;
  for (const JobPtr& job : progressed) {
    job->progress_waiting.store(false);
    const Napi::HandleScope scope(env_);
    try {
      job->on_progress.Call({Napi::Number::New(env_, static_cast<double>(job->progress.load()))});
    } catch (const Napi::Error& error) {
      thrown = error;
    }
  }
  for (const JobPtr& job : finished) settle(job);
  // Last, as it may end the process. Thrown from here an error would only give a deprecation warning.
  if (thrown) napi_fatal_exception(env_, thrown->Value());
}

void Instance::settle(const JobPtr& job) {
  if (ended_) return;
  const Napi::HandleScope scope(env_);
  if (job->deferred) {
    try {
      if (job->failure) {
        job->deferred->Reject(to_js_error(env_, *job->failure).Value());
      } else {
        job->deferred->Resolve(job->result(env_));
      }
    } catch (const Napi::Error& error) {
      job->deferred->Reject(error.Value());
    } catch (...) {
      job->deferred->Reject(to_js_error(env_, describe(std::current_exception())).Value());
    }
    if (--pending_ == 0) wakeup_.Unref(env_);
  }
  if (job->settled) job->settled();
}

}  // namespace stepward::addon
