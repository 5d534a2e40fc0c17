// One step of our Optimizer against torch::optim::AdamW on the same tensors. Prints one JSON object: the number of
// parameters, the median seconds of a step of ours (which takes the gradient norm and clips), of theirs alone, of
// theirs after clip_grad_norm_, and the largest difference of the weights that the two end with.
//
//     optimizer_ratio tiny|20m|135m THREADS ROUNDS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

// The only file of the project that includes it: the peer is torch's own C++ optimiser.
#include <torch/torch.h>

#include "core/optimizer.h"

namespace {

constexpr double kRate = 1e-3, kMaxNorm = 1.0;

struct Shape {
  int64_t hidden, intermediate, layers, key_value, vocabulary;
  bool tied;
};

// The tensors of a llama model of this shape, q_proj being square.
std::vector<std::vector<int64_t>> tensor_shapes(const Shape& s) {
  std::vector<std::vector<int64_t>> shapes{{s.vocabulary, s.hidden}, {s.hidden}};
  if (!s.tied) shapes.push_back({s.vocabulary, s.hidden});
  for (int64_t i = 0; i < s.layers; ++i) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{s.hidden},
                                                                               {s.hidden, s.hidden},
                                                                               {s.key_value, s.hidden},
                                                                               {s.key_value, s.hidden},
                                                                               {s.hidden, s.hidden},
                                                                               {s.hidden},
                                                                               {s.intermediate, s.hidden},
                                                                               {s.intermediate, s.hidden},
                                                                               {s.hidden, s.intermediate}}) {
      shapes.push_back(shape);
    }
  }
  return shapes;
}

std::vector<at::Tensor> normal(const Shape& shape, double deviation, uint64_t seed) {
  torch::manual_seed(seed);
  std::vector<at::Tensor> tensors;
  for (const auto& size : tensor_shapes(shape)) tensors.push_back(torch::randn(size).mul_(deviation));
  return tensors;
}

// Median seconds of `rounds` calls, the first two left out: moments are made in the first. `before` is not timed.
double median_seconds(int rounds, const std::function<void()>& before, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    before();
    const auto start = std::chrono::steady_clock::now();
    work();
    if (i >= 2) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

std::vector<at::Tensor> fresh_weights(const Shape& shape) {
  std::vector<at::Tensor> weights = normal(shape, 0.02, 1);
  for (at::Tensor& weight : weights) weight.requires_grad_();
  return weights;
}

// Clipping scales gradients in place, so they are written anew before every step.
void set_gradients(std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& source,
                   std::vector<at::Tensor>& buffers) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < weights.size(); ++i) {
    buffers[i].copy_(source[i]);
    weights[i].mutable_grad() = buffers[i];
  }
}

std::vector<at::Tensor> like(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& tensor : tensors) out.push_back(torch::empty_like(tensor));
  return out;
}

}  // namespace

int main(int count, char** arguments) {
  const auto usage = [] {
    std::fprintf(stderr, "usage: optimizer_ratio tiny|20m|135m THREADS ROUNDS (at least 3)\n");
    return 2;
  };
  if (count != 4) return usage();
  const std::string size = arguments[1];
  Shape shape{};
  if (size == "tiny") {
    shape = {64, 160, 2, 32, 512, false};
  } else if (size == "20m") {
    shape = {512, 1408, 4, 128, 8192, false};
  } else if (size == "135m") {
    shape = {576, 1536, 30, 192, 49152, true};
  } else {
    return usage();
  }
  const int rounds = std::atoi(arguments[3]);
  if (std::atoi(arguments[2]) < 1 || rounds < 3) return usage();
  at::set_num_threads(std::atoi(arguments[2]));

  const std::vector<at::Tensor> gradients = normal(shape, 1e-2, 2);
  std::vector<at::Tensor> buffers = like(gradients);
  int64_t parameters = 0;
  for (const at::Tensor& tensor : gradients) parameters += tensor.numel();

  double ours = 0, clipped = 0, theirs = 0, difference = 0;
  std::vector<at::Tensor> weights = fresh_weights(shape);
  {
    std::vector<stepward::Parameter> list;
    for (size_t i = 0; i < weights.size(); ++i) list.push_back({"tensor." + std::to_string(i), weights[i]});
    stepward::TrainerOptions options;
    options.max_grad_norm = kMaxNorm;
    stepward::Optimizer optimizer(std::move(list), options);
    ours = median_seconds(rounds, [&] { set_gradients(weights, gradients, buffers); }, [&] { optimizer.step(kRate); });
  }
  // One set of weights at a time: at 135M parameters a set with its state is 1.6 GB.
  const std::vector<at::Tensor> end = std::move(weights);
  const auto torch_step = [&](bool clip) {
    std::vector<at::Tensor> peers = fresh_weights(shape);
    torch::optim::AdamW optimizer(peers, torch::optim::AdamWOptions(kRate).weight_decay(0));
    const double seconds = median_seconds(
        rounds, [&] { set_gradients(peers, gradients, buffers); },
        [&] {
          if (clip) torch::nn::utils::clip_grad_norm_(peers, kMaxNorm);
          optimizer.step();
        });
    if (clip) {
      torch::NoGradGuard no_grad;
      for (size_t i = 0; i < peers.size(); ++i)
        difference = std::max(difference, (peers[i] - end[i]).abs().max().item<double>());
    }
    return seconds;
  };
  clipped = torch_step(true);
  theirs = torch_step(false);
  std::printf(
      "{\"size\":\"%s\",\"parameters\":%lld,\"stepward\":%.6g,\"torch\":%.6g,\"torch_clipped\":%.6g,"
      "\"difference\":%.3g}\n",
      size.c_str(), static_cast<long long>(parameters), ours, theirs, clipped, difference);
  return 0;
}
