// CUDA graphs of small steps. A decode step of a small model is hundreds of launches of a few microseconds, and the CPU
// that issues them is slower than the GPU that runs them; a captured step is one launch.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "core/rollout/step_inputs.h"

namespace at::cuda {
struct CUDAGraph;
}

namespace stepward {

class DecodeGraphs {
 public:
  // Off where the environment has STEPWARD_CUDA_GRAPHS=off.
  DecodeGraphs();
  ~DecodeGraphs();
  DecodeGraphs(const DecodeGraphs&) = delete;

  // Runs `step` on the current stream, which must not be the default one. For one shape it must launch the same work on
  // the same addresses every time until clear(): it runs a few times as it is, is captured, and is replayed from then
  // on. Where the driver refuses the capture, steps go on running as they are.
  void run(const StepShape& shape, const std::function<void()>& step);

  // Forgets all graphs; waits for the current stream if there are any.
  void clear();

 private:
  struct Captured {
    int runs = 0;
    std::unique_ptr<at::cuda::CUDAGraph> graph;
  };

  bool enabled_;
  std::pair<unsigned long long, unsigned long long> pool_{0, 0};  // torch's id of the memory that all graphs share
  std::map<StepShape, Captured> shapes_;
  int64_t graphs_ = 0;
};

}  // namespace stepward
