// Loading, sampling, scoring and saving as jobs of an engine. Each function reads its arguments on the JS thread, so
// that bad ones are told at once, and hands a job to the engine thread.
#include <limits>
#include <utility>

#include "addon/convert.h"
#include "addon/exports.h"
#include "addon/handles.h"
#include "addon/instance.h"
#include "addon/rollout_values.h"
#include "core/lora.h"
#include "core/peft.h"
#include "core/weights_hash.h"
#include "stepward/error.h"
#include "stepward/rollout.h"

namespace stepward::addon {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;

const char* family_name(Family family) {
  switch (family) {
    case Family::llama:
      return "llama";
    case Family::mistral:
      return "mistral";
    case Family::qwen2:
      return "qwen2";
    case Family::qwen3:
      return "qwen3";
  }
  return "unknown";
}

ModelSummary summarise(const Model& model) {
  const ModelConfig& config = model.config();
  ModelSummary info;
  info.family = family_name(config.family);
  info.vocab_size = config.vocab_size;
  info.hidden_size = config.hidden_size;
  info.num_layers = config.num_layers;
  info.max_positions = config.max_positions;
  info.parameters = model.num_parameters();
  info.eos_ids = config.eos_ids;
  info.device = model.device().str();
  info.dtype = model.dtype() == at::kBFloat16 ? "bfloat16" : "float32";
  return info;
}

GenerateRequest read_generate_request(const Field& field) {
  GenerateRequest request;
  request.forest = field["forest"].forest();
  request.nodes = field["nodes"].array<int32_t>();
  request.samples = static_cast<int32_t>(field["samples"].integer(1, kInt32Max));
  request.tree_keys = field["treeKeys"].array<uint64_t>(request.nodes.size(), "one per node");
  request.steps = field["steps"].array<int32_t>(request.nodes.size(), "one per node");
  request.first_candidate = static_cast<int32_t>(field["firstCandidate"].integer(0, kInt32Max));
  request.sampling = read_sampling(field);
  return request;
}

Napi::Value generated(Napi::Env env, const GenerateResult& result) {
  auto out = Napi::Object::New(env);
  set_candidates(out, result.rows);
  out.Set("computedTokens", to_js(env, result.computed_tokens));
  out.Set("prefixFreeTokens", to_js(env, result.prefix_free_tokens));
  return out;
}

}  // namespace

Napi::Value load_model(const Napi::CallbackInfo& info) {
  const Field field(info[0], "options");
  ModelOptions options;
  options.directory = field["directory"].text();
  options.device = field["device"].text();
  options.dtype = field["dtype"].text();
  if (const Field seed = field["initSeed"]; seed.present()) options.init_seed = seed.uint64();
  std::string adapter;
  if (const Field folder = field["adapter"]; folder.present()) adapter = folder.text();
  const Field other_base = field["allowOtherBase"];
  const bool allow_other_base = other_base.present() && other_base.boolean();
  RolloutOptions rollout_options;
  rollout_options.kv_budget_bytes = field["kvBudgetBytes"].integer(1, kSafeInteger);
  rollout_options.share = field["sharePrefixes"].boolean();
  rollout_options.bf16_panels = field["bf16Panels"].boolean();
  const auto cancel = cancel_flag_of(info[1], "cancel");

  const auto& instance = Instance::of(info.Env());
  Engine& engine = instance->add_engine();
  engine.users = 1;  // until the handle exists, or loading failed
  auto job = make_job(
      info.Env(),
      [&engine, options = std::move(options), adapter, allow_other_base, rollout_options, cancel] {
        auto model = Model::load(options);
        cancel->check();
        if (!adapter.empty()) {
          load_lora(*model, adapter, allow_other_base);
          merge_lora(*model);
          cancel->check();
        }
        engine.summary = summarise(*model);
        engine.rollout = std::make_unique<Rollout>(*model, rollout_options);
        engine.model = std::move(model);
      },
      [&engine](Napi::Env env) { return new_engine_handle(env, engine); });
  job->cancel = cancel;
  job->settled = [instance, &engine] { instance->release(engine, {}, std::nullopt); };
  return instance->submit(engine, std::move(job));
}

Napi::Value model_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const ModelSummary& summary = engine_of(info[0], "engine").summary;
  auto out = Napi::Object::New(env);
  out.Set("family", to_js(env, summary.family));
  out.Set("vocabSize", to_js(env, summary.vocab_size));
  out.Set("hiddenSize", to_js(env, summary.hidden_size));
  out.Set("numLayers", to_js(env, summary.num_layers));
  out.Set("maxPositions", to_js(env, summary.max_positions));
  out.Set("parameters", to_js(env, summary.parameters));
  auto eos_ids = Napi::Array::New(env, summary.eos_ids.size());
  for (uint32_t i = 0; i < summary.eos_ids.size(); ++i) eos_ids.Set(i, summary.eos_ids[i]);
  out.Set("eosIds", eos_ids);
  out.Set("device", to_js(env, summary.device));
  out.Set("dtype", to_js(env, summary.dtype));
  return out;
}

Napi::Value set_token_bytes(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const auto bytes = Field(info[1], "bytes").array<uint8_t>();
  const auto offsets =
      Field(info[2], "offsets").array<int32_t>(static_cast<size_t>(engine.summary.vocab_size) + 1, "vocabSize + 1");
  for (size_t i = 0; i < offsets.size(); ++i) {
    const int64_t lowest = i == 0 ? 0 : offsets[i - 1];
    const int64_t highest = i == 0 ? 0 : static_cast<int64_t>(bytes.size());
    if (offsets[i] < lowest || offsets[i] > highest) {
      fail(ErrorCode::INVALID_ARGUMENT, "offsets[", i, "]: expected ", lowest, " to ", highest, ", got ", offsets[i]);
    }
  }
  TokenBytes token_bytes{{bytes.begin(), bytes.end()}, {offsets.begin(), offsets.end()}};
  auto job = make_job(
      info.Env(),
      [&engine, token_bytes = std::move(token_bytes)]() mutable { engine.token_bytes = std::move(token_bytes); },
      undefined);
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

Napi::Value generate_rows(const Napi::CallbackInfo& info) {
  const auto& instance = Instance::of(info.Env());
  Engine& engine = engine_of(info[0], "engine");
  GenerateRequest request = read_generate_request(Field(info[1], "request"));
  const auto cancel = cancel_flag_of(info[2], "cancel");
  const bool reports = !info[3].IsUndefined();
  if (reports && !info[3].IsFunction()) Field(info[3], "onProgress").wrong("a function");

  // The job reports on itself, and by then owns this closure: a weak pointer, or neither would ever be freed.
  auto self = std::make_shared<std::weak_ptr<Job>>();
  std::function<void(int64_t)> progress;
  if (reports) {
    progress = [instance, self](int64_t rows) {
      if (const JobPtr job = self->lock()) instance->progressed(job, rows);
    };
  }
  auto job = make_job(
      info.Env(),
      [&engine, request = std::move(request), cancel, progress = std::move(progress)] {
        return generate(*engine.rollout, engine.token_bytes, request, cancel, progress);
      },
      generated);
  *self = job;
  job->cancel = cancel;
  if (reports) job->on_progress = Napi::Persistent(info[3].As<Napi::Function>());
  return instance->submit(engine, std::move(job));
}

Napi::Value readout_labels(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const auto cancel = cancel_flag_of(info[4], "cancel");
  auto job = make_job(
      info.Env(),
      [&engine, forest = Field(info[1], "forest").forest(), nodes = Field(info[2], "nodes").array<int32_t>(),
       labels = Field(info[3], "labels").array<int32_t>(),
       cancel] { return readout(*engine.rollout, forest, nodes, labels, cancel); },
      [](Napi::Env env, const ReadoutResult& result) {
        auto out = Napi::Object::New(env);
        out.Set("logprobs", to_js(env, result.logprobs));
        out.Set("computedTokens", to_js(env, result.computed_tokens));
        out.Set("prefixFreeTokens", to_js(env, result.prefix_free_tokens));
        return out;
      });
  job->cancel = cancel;
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

Napi::Value score_forest(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  Forest forest = Field(info[1], "forest").forest();
  auto scored = Field(info[2], "scored").array<uint8_t>(forest.parents.size(), "one per segment");
  const auto cancel = cancel_flag_of(info[3], "cancel");
  auto job = make_job(
      info.Env(),
      [&engine, forest = std::move(forest), scored = std::move(scored), cancel] {
        return score(*engine.rollout, forest, scored, cancel);
      },
      [](Napi::Env env, const ScoreResult& result) {
        auto out = Napi::Object::New(env);
        out.Set("logprobs", to_js(env, result.logprobs));
        out.Set("computedTokens", to_js(env, result.computed_tokens));
        return out;
      });
  job->cancel = cancel;
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

Napi::Value save_model(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const std::string directory = Field(info[1], "directory").text();
  return Instance::of(info.Env())
      ->submit(engine, make_job(info.Env(), [&engine, directory] { engine.model->save(directory); }, undefined));
}

Napi::Value hash_weights(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  auto job = make_job(
      info.Env(), [&engine] { return model_hash(*engine.model); },
      [](Napi::Env env, const std::string& hash) { return to_js(env, hash); });
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

}  // namespace stepward::addon
