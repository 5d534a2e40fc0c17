// The addon's exports: src/native/contract.ts, line for line (scripts/check-contract.mjs compares the names).
#include <dlfcn.h>

#include "addon/exports.h"
#include "addon/handles.h"
#include "addon/instance.h"

namespace stepward::addon {
namespace {

using Function = Napi::Value (*)(const Napi::CallbackInfo&);

// Throws what went wrong as an Error with a code.
template <Function F>
Napi::Value returns(const Napi::CallbackInfo& info) {
  try {
    return F(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(info.Env(), describe(std::current_exception()));
  }
}

// Rejects with it: a function that returns a promise never throws.
template <Function F>
Napi::Value promises(const Napi::CallbackInfo& info) {
  const auto rejected = [&](const Napi::Error& error) {
    auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Reject(error.Value());
    return deferred.Promise();
  };
  try {
    return F(info);
  } catch (const Napi::Error& error) {
    return rejected(error);
  } catch (...) {
    return rejected(to_js_error(info.Env(), describe(std::current_exception())));
  }
}

Napi::Value debug_live_handles(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Instance::of(info.Env())->live_handles));
}

Napi::Value create_cancel_token(const Napi::CallbackInfo& info) {
  return new_cancel_token(info.Env());
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  cancel_flag_of(info[0], "token")->cancel();
  Instance::of(info.Env())->reject_cancelled();
  return info.Env().Undefined();
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  return dispose_handle(info[0]);
}

// Node unloads an addon with the last worker thread that loaded it; OpenMP's threads would then run unmapped code.
void stay_loaded() {
  static const int anchor = 0;
  Dl_info self;
  if (dladdr(&anchor, &self) != 0 && self.dli_fname) dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

template <Function F>
void set(Napi::Object& exports, const char* name) {
  exports.Set(name, Napi::Function::New<F>(exports.Env(), name));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  stay_loaded();
  Instance::create(env);

  set<returns<system_info>>(exports, "systemInfo");
  set<returns<set_thread_count>>(exports, "setThreads");
  set<returns<debug_live_handles>>(exports, "debugLiveHandles");
  set<returns<create_cancel_token>>(exports, "createCancelToken");
  set<returns<cancel>>(exports, "cancel");
  set<promises<dispose>>(exports, "dispose");

  set<promises<load_model>>(exports, "loadModel");
  set<returns<model_info>>(exports, "modelInfo");
  set<promises<set_token_bytes>>(exports, "setTokenBytes");
  set<promises<generate_rows>>(exports, "generate");
  set<promises<readout_labels>>(exports, "readout");
  set<promises<score_forest>>(exports, "score");
  set<promises<save_model>>(exports, "saveModel");
  set<promises<hash_weights>>(exports, "weightsHash");

  set<returns<rollout_plant>>(exports, "rolloutPlant");
  set<returns<rollout_release>>(exports, "rolloutRelease");
  set<promises<rollout_fork>>(exports, "rolloutFork");
  set<promises<rollout_score>>(exports, "rolloutScore");
  set<promises<rollout_readout>>(exports, "rolloutReadout");
  set<promises<rollout_counters>>(exports, "rolloutCounters");

  set<promises<create_trainer>>(exports, "createTrainer");
  set<promises<accumulate_preference>>(exports, "accumulatePreference");
  set<promises<forward_preference>>(exports, "forwardPreference");
  set<promises<backward_preference>>(exports, "backwardPreference");
  set<promises<accumulate_sft>>(exports, "accumulateSft");
  set<promises<reference_logprobs>>(exports, "referenceLogprobs");
  set<promises<apply_gradients>>(exports, "applyGradients");
  set<promises<training_memory>>(exports, "trainingMemory");
  set<promises<set_checkpoint_layers>>(exports, "setCheckpointLayers");
  set<promises<zero_grad>>(exports, "zeroGrad");
  set<promises<save_adapter>>(exports, "saveAdapter");
  set<promises<merge_adapter>>(exports, "mergeAdapter");
  set<promises<save_trainer_state>>(exports, "saveTrainerState");
  set<promises<load_trainer_state>>(exports, "loadTrainerState");
  return exports;
}

}  // namespace
}  // namespace stepward::addon

static Napi::Object init_stepward(Napi::Env env, Napi::Object exports) {
  return stepward::addon::init(env, exports);
}

NODE_API_MODULE(stepward, init_stepward)
