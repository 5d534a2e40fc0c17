// Tagged handles: what JavaScript holds of native objects. Every entry checks the tag, the kind and whether the handle
// was disposed (HANDLE_INVALID). A handle that JavaScript forgets is released when it is collected.
#pragma once

#include <memory>

#include "addon/engine.h"
#include "addon/napi_setup.h"
#include "stepward/cancel.h"

namespace stepward::addon {

struct TrainerRef {
  Engine& engine;
  uint64_t id;
};

Napi::Value new_cancel_token(Napi::Env env);
// Each takes one use of the engine (engine.users), which disposing or collecting the handle gives back.
Napi::Value new_engine_handle(Napi::Env env, Engine& engine);
Napi::Value new_trainer_handle(Napi::Env env, Engine& engine, uint64_t id);

// `name` is the argument's, for the message.
std::shared_ptr<CancelFlag> cancel_flag_of(const Napi::Value& value, const char* name);
Engine& engine_of(const Napi::Value& value, const char* name);
TrainerRef trainer_of(const Napi::Value& value, const char* name);

// Any kind. An engine's or trainer's native side goes after the jobs queued before; a model stays while trainers of it
// do. Resolves when that is done, at once for a handle disposed before.
Napi::Value dispose_handle(const Napi::Value& value);

}  // namespace stepward::addon
