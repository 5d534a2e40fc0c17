// Training as jobs of the trainer's engine. An engine has at most one live trainer: a second one would train the same
// weights, and switch the first one's gradients off when it goes.
#include <utility>

#include "addon/convert.h"
#include "addon/exports.h"
#include "addon/handles.h"
#include "addon/instance.h"
#include "stepward/error.h"
#include "stepward/trainer.h"

namespace stepward::addon {
namespace {

TrainerOptions read_trainer_options(const Field& field) {
  TrainerOptions options;
  options.optimizer = field["optimizer"].text();
  options.beta1 = field["beta1"].number();
  options.beta2 = field["beta2"].number();
  options.eps = field["eps"].number();
  options.weight_decay = field["weightDecay"].number();
  options.max_grad_norm = field["maxGradNorm"].number();
  if (const Field lora = field["lora"]; lora.present()) {
    options.lora.rank = lora["rank"].integer(1, 1 << 20);
    options.lora.alpha = lora["alpha"].number();
    options.lora.targets = lora["targets"].texts();
    options.lora.seed = lora["seed"].uint64();
    if (const Field rslora = lora["rslora"]; rslora.present()) options.lora.rslora = rslora.boolean();
  }
  if (const Field adapter = field["adapter"]; adapter.present()) options.adapter = adapter.text();
  if (const Field allow = field["allowOtherBase"]; allow.present()) options.allow_other_base = allow.boolean();
  if (const Field freeze = field["freeze"]; freeze.present()) options.freeze = freeze.texts();
  return options;
}

// The forest and its completions; no pairs.
PreferenceBatch read_completions(const Field& field) {
  PreferenceBatch batch;
  batch.forest = field["forest"].forest();
  batch.completion_offsets = field["completionOffsets"].array<int32_t>();
  batch.completion_segments = field["completionSegments"].array<int32_t>();
  return batch;
}

PreferenceBatch read_preference_batch(const Field& field) {
  PreferenceBatch batch = read_completions(field);
  batch.chosen = field["chosen"].array<int32_t>();
  batch.rejected = field["rejected"].array<int32_t>(batch.chosen.size(), "one per pair");
  batch.weight = field["weight"].array<float>(batch.chosen.size(), "one per pair");
  batch.reference = field["reference"].array<double>();
  if (const Field mix = field["mix"]; mix.present()) batch.mix = mix.array<float>(batch.chosen.size(), "one per pair");
  batch.loss = field["loss"].text();
  batch.beta = static_cast<float>(field["beta"].number());
  batch.label_smoothing = static_cast<float>(field["labelSmoothing"].number());
  batch.gamma = static_cast<float>(field["gamma"].number());
  batch.sft_weight = static_cast<float>(field["sftWeight"].number());
  batch.pair_norm = field["pairNorm"].number();
  batch.token_norm = field["tokenNorm"].number();
  return batch;
}

SftBatch read_sft_batch(const Field& field) {
  SftBatch batch;
  batch.forest = field["forest"].forest();
  batch.segment_weight = field["segmentWeight"].array<float>(batch.forest.parents.size(), "one per segment");
  batch.token_norm = field["tokenNorm"].number();
  return batch;
}

Napi::Object statistics_to_js(Napi::Env env, double correct, double entropy, double logits_chosen,
                              double logits_rejected, double chosen_tokens, double rejected_tokens) {
  auto out = Napi::Object::New(env);
  out.Set("correct", to_js(env, correct));
  out.Set("entropy", to_js(env, entropy));
  out.Set("logitsChosen", to_js(env, logits_chosen));
  out.Set("logitsRejected", to_js(env, logits_rejected));
  out.Set("chosenTokens", to_js(env, chosen_tokens));
  out.Set("rejectedTokens", to_js(env, rejected_tokens));
  out.Set("sideTokens", to_js(env, chosen_tokens + rejected_tokens));
  return out;
}

// work(Trainer&) on the trainer's engine thread.
template <typename Work, typename Convert>
Napi::Value submit(const Napi::CallbackInfo& info, std::shared_ptr<CancelFlag> cancel, bool gradients, Work work,
                   Convert convert) {
  const TrainerRef ref = trainer_of(info[0], "trainer");
  Engine* engine = &ref.engine;
  auto job = make_job(
      info.Env(),
      [engine, id = ref.id, work = std::move(work)] {
        Trainer& trainer = *engine->trainers.at(id);
        return work(trainer);
      },
      std::move(convert));
  job->cancel = std::move(cancel);
  job->gradients = gradients;
  return Instance::of(info.Env())->submit(*engine, std::move(job));
}

}  // namespace

Napi::Value create_trainer(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  TrainerOptions options = read_trainer_options(Field(info[1], "options"));
  const auto& instance = Instance::of(info.Env());
  const uint64_t id = ++engine.last_trainer;
  ++engine.users;  // until the handle exists, or making the trainer failed
  auto job = make_job(
      info.Env(),
      [&engine, id, options = std::move(options)] {
        if (!engine.trainers.empty()) {
          fail(ErrorCode::INVALID_ARGUMENT, "createTrainer: the engine has a trainer already; dispose of it first");
        }
        engine.rollout->release_memory();  // training needs it more
        engine.trainers.emplace(id, std::make_unique<Trainer>(*engine.model, options));
      },
      [&engine, id](Napi::Env env) { return new_trainer_handle(env, engine, id); });
  job->settled = [instance, &engine] { instance->release(engine, {}, std::nullopt); };
  return instance->submit(engine, std::move(job));
}

Napi::Value accumulate_preference(const Napi::CallbackInfo& info) {
  const auto cancel = cancel_flag_of(info[2], "cancel");
  return submit(
      info, cancel, true,
      [batch = read_preference_batch(Field(info[1], "batch")), cancel](Trainer& trainer) {
        return trainer.accumulate(batch, *cancel);
      },
      [](Napi::Env env, const PreferenceResult& result) {
        auto out = Napi::Object::New(env);
        out.Set("loss", to_js(env, result.loss));
        out.Set("sftLoss", to_js(env, result.sft_loss));
        out.Set("completionLogprobs", to_js(env, result.completion_logprobs));
        out.Set("pairLoss", to_js(env, result.pair_loss));
        const PreferenceStatistics& sums = result.statistics;
        out.Set("statistics",
                statistics_to_js(env, sums.correct, sums.entropy, sums.logits_chosen, sums.logits_rejected,
                                 static_cast<double>(sums.chosen_tokens), static_cast<double>(sums.rejected_tokens)));
        out.Set("computedTokens", to_js(env, result.computed_tokens));
        return out;
      });
}

Napi::Value forward_preference(const Napi::CallbackInfo& info) {
  const auto cancel = cancel_flag_of(info[2], "cancel");
  return submit(
      info, cancel, true,
      [batch = read_completions(Field(info[1], "completions")), cancel](Trainer& trainer) {
        return trainer.forward(batch, *cancel);
      },
      [](Napi::Env env, const CompletionValues& values) {
        auto out = Napi::Object::New(env);
        out.Set("logprobs", to_js(env, values.logprobs));
        out.Set("lengths", to_js(env, values.lengths));
        out.Set("statistics", to_js(env, values.statistics));
        out.Set("computedTokens", to_js(env, values.computed_tokens));
        return out;
      });
}

Napi::Value backward_preference(const Napi::CallbackInfo& info) {
  const auto cancel = cancel_flag_of(info[2], "cancel");
  return submit(
      info, cancel, true,
      [grad = Field(info[1], "grad").array<double>(), cancel](Trainer& trainer) { trainer.backward(grad, *cancel); },
      undefined);
}

Napi::Value accumulate_sft(const Napi::CallbackInfo& info) {
  const auto cancel = cancel_flag_of(info[2], "cancel");
  return submit(
      info, cancel, true,
      [batch = read_sft_batch(Field(info[1], "batch")), cancel](Trainer& trainer) {
        return trainer.accumulate(batch, *cancel);
      },
      [](Napi::Env env, const SftResult& result) {
        auto out = Napi::Object::New(env);
        out.Set("loss", to_js(env, result.loss));
        out.Set("scoredTokens", to_js(env, result.scored_tokens));
        out.Set("statistics",
                statistics_to_js(env, result.correct, result.entropy, result.logits, 0, result.weight, 0));
        out.Set("computedTokens", to_js(env, result.computed_tokens));
        return out;
      });
}

Napi::Value reference_logprobs(const Napi::CallbackInfo& info) {
  const auto cancel = cancel_flag_of(info[2], "cancel");
  return submit(
      info, cancel, false,
      [batch = read_completions(Field(info[1], "completions")), cancel](Trainer& trainer) {
        return trainer.reference_logprobs(batch, *cancel);
      },
      [](Napi::Env env, const std::vector<double>& logprobs) { return to_js(env, logprobs); });
}

Napi::Value apply_gradients(const Napi::CallbackInfo& info) {
  const double learning_rate = Field(info[1], "learningRate").number();
  return submit(
      info, nullptr, false, [learning_rate](Trainer& trainer) { return trainer.apply(learning_rate); },
      [](Napi::Env env, double norm) { return to_js(env, norm); });
}

Napi::Value training_memory(const Napi::CallbackInfo& info) {
  const Field field(info[1], "shape");
  constexpr int64_t kMost = int64_t{1} << 40;
  const MicroBatchShape shape{.tokens = field["tokens"].integer(0, kMost),
                              .scored_tokens = field["scoredTokens"].integer(0, kMost),
                              .path_tokens = field["pathTokens"].integer(0, kMost),
                              .paths = field["paths"].integer(0, kMost),
                              .step_tokens = field["stepTokens"].integer(0, kMost),
                              .checkpoint_layers = field["checkpointLayers"].boolean()};
  return submit(
      info, nullptr, false, [shape](Trainer& trainer) { return trainer.memory(shape); },
      [](Napi::Env env, const TrainingMemory& memory) {
        auto out = Napi::Object::New(env);
        out.Set("base", to_js(env, memory.base));
        out.Set("gradients", to_js(env, memory.gradients));
        out.Set("optimizer", to_js(env, memory.optimizer));
        out.Set("activations", to_js(env, memory.activations));
        out.Set("workspace", to_js(env, memory.workspace));
        out.Set("total", to_js(env, memory.total()));
        out.Set("resident", to_js(env, memory.resident));
        out.Set("available", to_js(env, memory.available));
        return out;
      });
}

Napi::Value set_checkpoint_layers(const Napi::CallbackInfo& info) {
  const bool on = Field(info[1], "on").boolean();
  return submit(info, nullptr, false, [on](Trainer& trainer) { trainer.set_checkpoint_layers(on); }, undefined);
}

Napi::Value zero_grad(const Napi::CallbackInfo& info) {
  return submit(info, nullptr, false, [](Trainer& trainer) { trainer.zero_grad(); }, undefined);
}

Napi::Value save_adapter(const Napi::CallbackInfo& info) {
  const std::string directory = Field(info[1], "directory").text(), base_model = Field(info[2], "baseModel").text();
  return submit(
      info, nullptr, false, [directory, base_model](Trainer& trainer) { trainer.save_adapter(directory, base_model); },
      undefined);
}

Napi::Value merge_adapter(const Napi::CallbackInfo& info) {
  return submit(info, nullptr, false, [](Trainer& trainer) { trainer.merge_adapter(); }, undefined);
}

Napi::Value save_trainer_state(const Napi::CallbackInfo& info) {
  const std::string file = Field(info[1], "file").text();
  return submit(info, nullptr, false, [file](Trainer& trainer) { trainer.save_state(file); }, undefined);
}

Napi::Value load_trainer_state(const Napi::CallbackInfo& info) {
  const std::string file = Field(info[1], "file").text(), parameters = Field(info[2], "parameters").text();
  return submit(
      info, nullptr, false, [file, parameters](Trainer& trainer) { trainer.load_state(file, parameters); }, undefined);
}

}  // namespace stepward::addon
