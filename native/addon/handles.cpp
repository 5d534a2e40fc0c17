#include "addon/handles.h"

#include <utility>

#include "addon/instance.h"
#include "stepward/error.h"

namespace stepward::addon {
namespace {

// Says that an External was made by this addon; what a JavaScript value points at cannot be trusted without it.
constexpr napi_type_tag kHandleTag = {0x5b1d3f0c9e6a4d27, 0x8f42a7c1d05e93b6};

enum class Kind { cancel_token, engine, trainer };

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::cancel_token:
      return "cancel token";
    case Kind::engine:
      return "engine";
    case Kind::trainer:
      return "trainer";
  }
  return "unknown";
}

struct Box {
  Kind kind;
  std::shared_ptr<Instance> instance;     // outlives the environment's own pointer at teardown
  std::shared_ptr<CancelFlag> flag = {};  // cancel_token
  Engine* engine = nullptr;  // engine, trainer: valid while the handle is live and the instance has not ended
  uint64_t trainer = 0;      // trainer
  bool disposed = false;
};

// Once per box.
void release(Box& box, std::optional<Napi::Promise::Deferred> deferred) {
  box.disposed = true;
  --box.instance->live_handles;
  box.flag.reset();
  if (!box.engine || box.instance->ended()) {
    if (deferred) deferred->Resolve(deferred->Env().Undefined());
    return;
  }
  std::function<void()> cleanup;
  if (box.kind == Kind::trainer) cleanup = [engine = box.engine, id = box.trainer] { engine->trainers.erase(id); };
  box.instance->release(*box.engine, std::move(cleanup), std::move(deferred));
}

Napi::Value wrap(Napi::Env env, Box box) {
  auto owned = std::make_unique<Box>(std::move(box));
  auto external = Napi::External<Box>::New(env, owned.get(), [](Napi::Env, Box* collected) {
    const std::unique_ptr<Box> last(collected);
    if (!last->disposed) release(*last, std::nullopt);
  });
  external.TypeTag(&kHandleTag);
  ++owned->instance->live_handles;
  if (owned->engine) ++owned->engine->users;
  owned.release();
  return external;
}

Box* box_of(const Napi::Value& value) {
  if (!value.IsExternal()) return nullptr;
  const auto external = value.As<Napi::External<Box>>();
  return external.CheckTypeTag(&kHandleTag) ? external.Data() : nullptr;
}

Box& live_box_of(const Napi::Value& value, Kind kind, const char* name) {
  Box* box = box_of(value);
  if (!box)
    fail(ErrorCode::HANDLE_INVALID, name, ": expected a handle of kind ", kind_name(kind), ", got another value");
  if (box->kind != kind) {
    fail(ErrorCode::HANDLE_INVALID, name, ": expected a handle of kind ", kind_name(kind), ", got ",
         kind_name(box->kind));
  }
  if (box->disposed) fail(ErrorCode::HANDLE_INVALID, name, ": the ", kind_name(kind), " was disposed");
  if (box->instance->ended()) fail(ErrorCode::HANDLE_INVALID, name, ": the process is ending");
  return *box;
}

}  // namespace

Napi::Value new_cancel_token(Napi::Env env) {
  return wrap(env, {.kind = Kind::cancel_token, .instance = Instance::of(env), .flag = std::make_shared<CancelFlag>()});
}

Napi::Value new_engine_handle(Napi::Env env, Engine& engine) {
  return wrap(env, {.kind = Kind::engine, .instance = Instance::of(env), .engine = &engine});
}

Napi::Value new_trainer_handle(Napi::Env env, Engine& engine, uint64_t id) {
  return wrap(env, {.kind = Kind::trainer, .instance = Instance::of(env), .engine = &engine, .trainer = id});
}

std::shared_ptr<CancelFlag> cancel_flag_of(const Napi::Value& value, const char* name) {
  return live_box_of(value, Kind::cancel_token, name).flag;
}

Engine& engine_of(const Napi::Value& value, const char* name) {
  return *live_box_of(value, Kind::engine, name).engine;
}

TrainerRef trainer_of(const Napi::Value& value, const char* name) {
  const Box& box = live_box_of(value, Kind::trainer, name);
  return {*box.engine, box.trainer};
}

Napi::Value dispose_handle(const Napi::Value& value) {
  Box* box = box_of(value);
  if (!box) fail(ErrorCode::HANDLE_INVALID, "handle: expected a handle of this addon, got another value");
  auto deferred = Napi::Promise::Deferred::New(value.Env());
  const Napi::Promise promise = deferred.Promise();
  if (box->disposed) {
    deferred.Resolve(value.Env().Undefined());
  } else {
    release(*box, deferred);
  }
  return promise;
}

}  // namespace stepward::addon
