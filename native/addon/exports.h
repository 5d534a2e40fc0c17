// The functions module.cpp exports, by the files that hold them. Names and types: src/native/contract.ts.
#pragma once

#include "addon/napi_setup.h"

namespace stepward::addon {

// system_info.cpp
Napi::Value system_info(const Napi::CallbackInfo& info);
Napi::Value set_thread_count(const Napi::CallbackInfo& info);

// engine_jobs.cpp
Napi::Value load_model(const Napi::CallbackInfo& info);
Napi::Value model_info(const Napi::CallbackInfo& info);
Napi::Value set_token_bytes(const Napi::CallbackInfo& info);
Napi::Value generate_rows(const Napi::CallbackInfo& info);
Napi::Value readout_labels(const Napi::CallbackInfo& info);
Napi::Value score_forest(const Napi::CallbackInfo& info);
Napi::Value save_model(const Napi::CallbackInfo& info);
Napi::Value hash_weights(const Napi::CallbackInfo& info);

// rollout_jobs.cpp
Napi::Value rollout_plant(const Napi::CallbackInfo& info);
Napi::Value rollout_release(const Napi::CallbackInfo& info);
Napi::Value rollout_fork(const Napi::CallbackInfo& info);
Napi::Value rollout_score(const Napi::CallbackInfo& info);
Napi::Value rollout_readout(const Napi::CallbackInfo& info);
Napi::Value rollout_counters(const Napi::CallbackInfo& info);

// trainer_jobs.cpp
Napi::Value create_trainer(const Napi::CallbackInfo& info);
Napi::Value accumulate_preference(const Napi::CallbackInfo& info);
Napi::Value forward_preference(const Napi::CallbackInfo& info);
Napi::Value backward_preference(const Napi::CallbackInfo& info);
Napi::Value accumulate_sft(const Napi::CallbackInfo& info);
Napi::Value reference_logprobs(const Napi::CallbackInfo& info);
Napi::Value apply_gradients(const Napi::CallbackInfo& info);
Napi::Value training_memory(const Napi::CallbackInfo& info);
Napi::Value set_checkpoint_layers(const Napi::CallbackInfo& info);
Napi::Value zero_grad(const Napi::CallbackInfo& info);
Napi::Value save_adapter(const Napi::CallbackInfo& info);
Napi::Value merge_adapter(const Napi::CallbackInfo& info);
Napi::Value save_trainer_state(const Napi::CallbackInfo& info);
Napi::Value load_trainer_state(const Napi::CallbackInfo& info);

}  // namespace stepward::addon
