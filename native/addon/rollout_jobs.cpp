// The rollout engine's verbs. Nodes are numbered on the JS thread, so that a caller can go on at once with a node that
// the engine thread has yet to make; where making it fails, whoever uses it is told why. Requests overlap: they join
// the engine's next step, and their promises settle when the engine is done with them.
#include <cmath>
#include <utility>

#include "addon/convert.h"
#include "addon/exports.h"
#include "addon/handles.h"
#include "addon/instance.h"
#include "addon/rollout_values.h"
#include "stepward/error.h"
#include "stepward/rollout.h"

namespace stepward::addon {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostSamples = 1 << 20;  // of a node; more would not fit the memory for their numbers
constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;

NodeId node_of(const Engine& engine, int64_t number);

// All of them before any request starts: one that cannot be used fails the whole at once.
std::vector<NodeId> nodes_of(const Engine& engine, const std::vector<int64_t>& numbers) {
  std::vector<NodeId> ids;
  for (const int64_t number : numbers) ids.push_back(node_of(engine, number));
  return ids;
}

NodeId node_of(const Engine& engine, int64_t number) {
  const auto it = engine.nodes.find(number);
  if (it == engine.nodes.end())
    fail(ErrorCode::HANDLE_INVALID, "node ", number, ": expected a node that is held, it is unknown or was released");
  if (it->second.failure) std::rethrow_exception(it->second.failure);
  return it->second.id;
}

void let_go(Engine& engine, int64_t number) {
  const auto it = engine.nodes.find(number);
  if (it == engine.nodes.end()) return;
  const NumberedNode node = it->second;
  engine.nodes.erase(it);
  if (!node.failure) engine.rollout->release(node.id);
}

// start(Rollout&, done) on the engine thread, where done(T, failure) may be called at any later time on it.
template <typename T, typename Start, typename Convert>
Napi::Value request(const Napi::CallbackInfo& info, Engine& engine, std::shared_ptr<CancelFlag> cancel, Start start,
                    Convert convert) {
  auto job = std::make_shared<Job>();
  job->overlaps = job->ends_later = true;
  job->cancel = std::move(cancel);
  job->deferred.emplace(Napi::Promise::Deferred::New(info.Env()));
  const auto value = std::make_shared<std::optional<T>>();
  job->result = [value, convert = std::move(convert)](Napi::Env env) -> Napi::Value {
    return convert(env, std::move(**value));
  };
  job->run = [&engine, value, weak = std::weak_ptr<Job>(job), start = std::move(start)] {
    start(*engine.rollout, [&engine, value, job = weak.lock()](T result, const std::exception_ptr& failure) {
      if (failure) {
        job->failure = describe(failure);
      } else {
        value->emplace(std::move(result));
      }
      engine.thread.end(job);
    });
  };
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

// Node numbers travel as doubles.
std::vector<int64_t> read_nodes(const Napi::Value& value, const char* name) {
  std::vector<int64_t> numbers;
  for (const double number : Field(value, name).array<double>()) {
    if (!(number >= 1 && number <= static_cast<double>(kSafeInteger) && number == std::floor(number)))
      fail(ErrorCode::HANDLE_INVALID, name, ": expected numbers of nodes, got ", number);
    numbers.push_back(static_cast<int64_t>(number));
  }
  return numbers;
}

int64_t read_priority(const Napi::Value& value) {
  return Field(value, "priority").integer(-kSafeInteger, kSafeInteger);
}

// The parts of a request over several nodes, each by its own core request. The first failure is the whole's.
template <typename T>
class Parts {
 public:
  using Done = std::function<void(std::vector<T>, std::exception_ptr)>;
  Parts(size_t count, Done done) : left_(count), values_(count), done_(std::move(done)) {}

  void end(size_t part, T value, const std::exception_ptr& failure) {
    values_[part] = std::move(value);
    if (failure && !failure_) failure_ = failure;
    if (--left_ == 0) done_(std::move(values_), failure_);
  }

 private:
  size_t left_;
  std::vector<T> values_;
  std::exception_ptr failure_;
  Done done_;
};

// start(part, end) for every node, where a start that throws ends its part.
template <typename T, typename Start>
void start_parts(size_t count, typename Parts<T>::Done done, const Start& start) {
  if (count == 0) return done({}, nullptr);
  const auto parts = std::make_shared<Parts<T>>(count, std::move(done));
  for (size_t i = 0; i < count; ++i) {
    const auto end = [parts, i](T value, const std::exception_ptr& failure) {
      parts->end(i, std::move(value), failure);
    };
    try {
      start(i, end);
    } catch (...) {
      end({}, std::current_exception());
    }
  }
}

// Takes the values of all parts end to end.
Parts<std::vector<float>>::Done joining(Rollout::ValuesDone done) {
  return [done = std::move(done)](std::vector<std::vector<float>> parts, const std::exception_ptr& failure) {
    std::vector<float> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    done(std::move(all), failure);
  };
}

}  // namespace

// The segments of a forest below a node (0: as roots), numbered from the number returned.
Napi::Value rollout_plant(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const int64_t below = Field(info[1], "parent").integer(0, kSafeInteger), first = engine.last_node + 1;
  Forest forest = Field(info[2], "forest").forest();
  engine.last_node += forest.num_segments();
  auto job = std::make_shared<Job>();
  job->overlaps = true;
  job->run = [&engine, below, first, forest = std::move(forest)] {
    std::exception_ptr bad_forest;
    try {
      validate_forest(forest, engine.summary.vocab_size, engine.summary.max_positions);
    } catch (...) {
      bad_forest = std::current_exception();
    }
    for (int64_t s = 0; s < forest.num_segments(); ++s) {
      NumberedNode node{0, bad_forest};
      try {
        if (!bad_forest) {
          const int64_t parent = forest.parents[s] < 0 ? below : first + forest.parents[s];
          const std::vector<int32_t> tokens(forest.tokens.begin() + forest.offsets[s],
                                            forest.tokens.begin() + forest.offsets[s + 1]);
          node.id =
              parent == 0 ? engine.rollout->open(tokens) : engine.rollout->append(node_of(engine, parent), tokens);
        }
      } catch (...) {
        node.failure = std::current_exception();
      }
      engine.nodes[first + s] = node;
    }
  };
  Instance::of(info.Env())->send(engine, std::move(job));
  return to_js(info.Env(), first);
}

Napi::Value rollout_release(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  auto job = std::make_shared<Job>();
  job->overlaps = true;
  job->run = [&engine, numbers = read_nodes(info[1], "nodes")] {
    // Leaves first: what is above them then goes in the same pass.
    for (auto it = numbers.rbegin(); it != numbers.rend(); ++it) let_go(engine, *it);
  };
  Instance::of(info.Env())->send(engine, std::move(job));
  return info.Env().Undefined();
}

Napi::Value rollout_fork(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const Field field(info[2], "request");
  const std::vector<int64_t> nodes = read_nodes(info[1], "nodes");
  ForkRequest fork;
  fork.samples = static_cast<int32_t>(field["samples"].integer(1, kMostSamples));
  fork.first_candidate = static_cast<int32_t>(field["firstCandidate"].integer(0, kInt32Max));
  fork.sampling = read_sampling(field);
  const auto tree_keys = field["treeKeys"].array<uint64_t>(nodes.size(), "one per node");
  const auto steps = field["steps"].array<int32_t>(nodes.size(), "one per node");
  const int64_t priority = read_priority(info[3]);
  const auto cancel = cancel_flag_of(info[4], "cancel");
  const int64_t first = engine.last_node + 1;
  engine.last_node += fork.samples * static_cast<int64_t>(nodes.size());
  using Fork = std::vector<Candidate>;
  return request<Fork>(
      info, engine, cancel,
      [&engine, nodes, fork, tree_keys, steps, priority, cancel, first](Rollout& rollout, auto done) {
        const auto finish = [&engine, &rollout, first, done](std::vector<Fork> forks,
                                                             const std::exception_ptr& failure) {
          Fork all;
          for (Fork& some : forks) {
            for (Candidate& candidate : some) {
              if (failure) {
                rollout.release(candidate.node);  // of a part that went well
              } else {
                engine.nodes[first + static_cast<int64_t>(all.size())] = {candidate.node, nullptr};
                all.push_back(std::move(candidate));
              }
            }
          }
          done(std::move(all), failure);
        };
        const std::vector<NodeId> ids = nodes_of(engine, nodes);
        start_parts<Fork>(ids.size(), finish, [&](size_t i, const auto& end) {
          ForkRequest part = fork;
          part.node = ids[i];
          part.tree_key = tree_keys[i];
          part.step = steps[i];
          rollout.fork(part, engine.token_bytes, priority, cancel, end);
        });
      },
      [first](Napi::Env env, const Fork& candidates) {
        auto out = Napi::Object::New(env);
        set_candidates(out, candidates);
        out.Set("firstNode", to_js(env, first));
        return out;
      });
}

Napi::Value rollout_score(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const auto cancel = cancel_flag_of(info[5], "cancel");
  const auto flat = Field(info[2], "tokens").array<int32_t>(), ends = Field(info[3], "offsets").array<int32_t>();
  std::vector<std::vector<int32_t>> suffixes;
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    if (ends[i] < 0 || ends[i] > ends[i + 1] || ends[i + 1] > static_cast<int64_t>(flat.size())) {
      fail(ErrorCode::INVALID_ARGUMENT, "offsets[", i + 1, "]: expected ", ends[i], " to ", flat.size(), ", got ",
           ends[i + 1]);
    }
    suffixes.emplace_back(flat.begin() + ends[i], flat.begin() + ends[i + 1]);
  }
  return request<std::vector<float>>(
      info, engine, cancel,
      [&engine, node = Field(info[1], "node").integer(1, kSafeInteger), suffixes, priority = read_priority(info[4]),
       cancel](Rollout& rollout, auto done) {
        rollout.score(node_of(engine, node), suffixes, priority, cancel, std::move(done));
      },
      [](Napi::Env env, const std::vector<float>& values) { return to_js(env, values); });
}

Napi::Value rollout_readout(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  const auto cancel = cancel_flag_of(info[4], "cancel");
  return request<std::vector<float>>(
      info, engine, cancel,
      [&engine, nodes = read_nodes(info[1], "nodes"), labels = Field(info[2], "labels").array<int32_t>(),
       priority = read_priority(info[3]), cancel](Rollout& rollout, auto done) {
        const std::vector<NodeId> ids = nodes_of(engine, nodes);
        start_parts<std::vector<float>>(ids.size(), joining(std::move(done)), [&](size_t i, const auto& end) {
          rollout.readout(ids[i], {{}}, labels, priority, cancel, end);
        });
      },
      [](Napi::Env env, const std::vector<float>& values) { return to_js(env, values); });
}

Napi::Value rollout_counters(const Napi::CallbackInfo& info) {
  Engine& engine = engine_of(info[0], "engine");
  auto job = make_job(
      info.Env(), [&engine] { return engine.rollout->counters(); },
      [](Napi::Env env, const RolloutCounters& counters) {
        auto out = Napi::Object::New(env);
        const auto set = [&](const char* name, auto value) { out.Set(name, to_js(env, value)); };
        set("promptTokensComputed", counters.prompt_tokens_computed);
        set("promptTokensPrefixFree", counters.prompt_tokens_prefix_free);
        set("sampledTokens", counters.sampled_tokens);
        set("evictedTokens", counters.evicted_tokens);
        set("lookups", counters.lookups);
        set("hits", counters.hits);
        set("steps", counters.steps);
        set("decodeSteps", counters.decode_steps);
        set("decodeRows", counters.decode_rows);
        set("prefillSeconds", counters.prefill_seconds);
        set("decodeSeconds", counters.decode_seconds);
        set("peakKvBytes", counters.peak_kv_bytes);
        set("liveSegments", counters.live_segments);
        set("cachedSegments", counters.cached_segments);
        return out;
      });
  job->overlaps = true;
  return Instance::of(info.Env())->submit(engine, std::move(job));
}

}  // namespace stepward::addon
