#ifdef STEPWARD_CUDA

#include "core/rollout/decode_graphs.h"

#include <cstdlib>
#include <exception>
#include <string_view>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

namespace stepward {
namespace {

// Before its capture a shape must have run once: libraries load kernels and take workspaces when they first need them,
// which a capture forbids. A second run keeps shapes that come only once or twice from being captured for nothing.
constexpr int kWarmRuns = 2;
constexpr int64_t kMaxGraphs = 128;

bool wanted() {
  const char* choice = std::getenv("STEPWARD_CUDA_GRAPHS");
  return choice == nullptr || std::string_view(choice) != "off";
}

}  // namespace

DecodeGraphs::DecodeGraphs() : enabled_(wanted()) {}
DecodeGraphs::~DecodeGraphs() = default;

void DecodeGraphs::run(const StepShape& shape, const std::function<void()>& step) {
  if (!enabled_) return step();
  Captured& captured = shapes_[shape];
  if (captured.graph) return captured.graph->replay();
  if (captured.runs < kWarmRuns || graphs_ == kMaxGraphs) {
    ++captured.runs;
    return step();
  }
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  try {
    // One pool for all: nothing in it outlives a replay, and cuBLAS may want its workspace from it.
    if (graphs_ == 0) pool_ = at::cuda::graph_pool_handle();
    // Thread-local: another engine's thread may allocate meanwhile.
    graph->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    step();
    graph->capture_end();
  } catch (const std::exception& error) {
    try {
      graph->capture_end();  // the stream must leave capture mode, whatever state it is in
    } catch (const std::exception&) {
    }
    cudaGetLastError();
    enabled_ = false;
    TORCH_WARN("CUDA graphs are off, steps could not be captured: ", error.what());
    return step();
  }
  captured.graph = std::move(graph);
  ++graphs_;
  captured.graph->replay();  // capturing runs nothing
}

void DecodeGraphs::clear() {
  if (graphs_ > 0) cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream().stream());
  shapes_.clear();
  graphs_ = 0;
}

}  // namespace stepward

#endif  // STEPWARD_CUDA
