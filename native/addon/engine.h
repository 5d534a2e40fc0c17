// A loaded model with the thread that owns it. Lives while a handle, a trainer or a job being set up uses it.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "addon/engine_thread.h"
#include "stepward/model.h"
#include "stepward/rollout.h"
#include "stepward/trainer.h"

namespace stepward::addon {

// What JavaScript may know of a loaded model without asking its thread.
struct ModelSummary {
  std::string family, device, dtype;
  int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, max_positions = 0, parameters = 0;
  std::vector<int32_t> eos_ids;
};

// A node as JavaScript numbers it. Making it may have failed: then whoever uses it is told why.
struct NumberedNode {
  NodeId id = 0;
  std::exception_ptr failure;
};

struct Engine {
  explicit Engine(std::function<void(JobPtr)> done)
      : thread(std::move(done), [this] { return rollout && rollout->step(); }, [this] { free_tensors(); }) {}

  // --- engine thread only ---
  std::unique_ptr<Model> model;
  std::unique_ptr<Rollout> rollout;  // refers to the model
  std::unordered_map<int64_t, NumberedNode> nodes;
  TokenBytes token_bytes;
  std::map<uint64_t, std::unique_ptr<Trainer>> trainers;  // by the id in their handles

  void free_tensors() {
    trainers.clear();  // they and the rollout engine refer to the model
    rollout.reset();
    model.reset();
  }

  ModelSummary summary;  // written by the load job, read on the JS thread once that has settled

  // --- JS thread only ---
  // The engine handle, each trainer handle, and each load or createTrainer under way. 0: about to end.
  int users = 0;
  uint64_t last_trainer = 0;
  int64_t last_node = 0;  // numbers given to nodes

  EngineThread thread;  // last: its thread uses the members above
};

}  // namespace stepward::addon
