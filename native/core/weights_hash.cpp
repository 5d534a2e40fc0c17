// MurmurHash3 x64 128 (Austin Appleby, public domain) over blocks of 1 MiB in parallel, then over the blocks' hashes in
// order, so that the result does not depend on how the work was split.
#include "core/weights_hash.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

#include "core/json_fields.h"

namespace stepward {
namespace {

using Hash = std::array<uint64_t, 2>;

constexpr int64_t kBlockBytes = 1 << 20;

uint64_t mix(uint64_t k) {
  k ^= k >> 33;
  k *= 0xff51afd7ed558ccdULL;
  k ^= k >> 33;
  k *= 0xc4ceb9fe1a85ec53ULL;
  return k ^ (k >> 33);
}

Hash murmur3(const void* data, int64_t bytes) {
  constexpr uint64_t c1 = 0x87c37b91114253d5ULL, c2 = 0x4cf5ad432745937fULL;
  const auto* at = static_cast<const unsigned char*>(data);
  const auto first = [](uint64_t k) { return std::rotl(k * c1, 31) * c2; };
  const auto second = [](uint64_t k) { return std::rotl(k * c2, 33) * c1; };
  uint64_t h1 = 0, h2 = 0;
  for (int64_t left = bytes; left >= 16; left -= 16, at += 16) {
    uint64_t k[2];
    std::memcpy(k, at, 16);
    h1 = (std::rotl(h1 ^ first(k[0]), 27) + h2) * 5 + 0x52dce729;
    h2 = (std::rotl(h2 ^ second(k[1]), 31) + h1) * 5 + 0x38495ab5;
  }
  if (const int64_t rest = bytes % 16; rest > 0) {
    uint64_t k[2] = {0, 0};
    std::memcpy(k, at, rest);
    h2 ^= second(k[1]);
    h1 ^= first(k[0]);
  }
  h1 ^= static_cast<uint64_t>(bytes);
  h2 ^= static_cast<uint64_t>(bytes);
  h1 += h2;
  h2 += h1;
  h1 = mix(h1);
  h2 = mix(h2);
  h1 += h2;
  h2 += h1;
  return {h1, h2};
}

Hash murmur3(const std::string& text) {
  return murmur3(text.data(), static_cast<int64_t>(text.size()));
}

// The rest of the config either shows in the tensors' names, dtypes and shapes or changes no number of a forward pass.
std::string computation(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  return Json{{"heads", {config.num_heads, config.num_kv_heads, config.head_dim}},
              {"rms_norm_eps", config.rms_norm_eps},
              {"window", config.window},
              {"rope", static_cast<int>(rope.kind)},
              {"theta", rope.theta},
              {"factor", rope.factor},
              {"original_max_positions", rope.original_max_positions},
              {"freq_factors", {rope.low_freq_factor, rope.high_freq_factor}},
              {"betas", {rope.beta_fast, rope.beta_slow}},
              {"mscales", {rope.mscale, rope.mscale_all_dim}},
              {"attention_factor", rope.attention_factor},
              {"truncate", rope.truncate}}
      .dump();
}

std::string hash_of(const TensorMap& weights, std::optional<at::ScalarType> as, std::vector<Hash> parts) {
  for (const auto& [name, tensor] : weights) {
    const at::ScalarType dtype = as.value_or(tensor.scalar_type());
    std::string header = name + '\n' + c10::toString(dtype);
    for (const int64_t size : tensor.sizes()) header += ' ' + std::to_string(size);
    parts.push_back(murmur3(header));

    const at::Tensor host = tensor.detach().to(at::kCPU, dtype).contiguous();
    const auto* data = static_cast<const char*>(host.const_data_ptr());
    const int64_t bytes = static_cast<int64_t>(host.nbytes());
    const int64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes, start = static_cast<int64_t>(parts.size());
    parts.resize(start + blocks);
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        parts[start + b] = murmur3(data + b * kBlockBytes, std::min(kBlockBytes, bytes - b * kBlockBytes));
      }
    });
  }
  const Hash hash = murmur3(parts.data(), static_cast<int64_t>(parts.size() * sizeof(Hash)));
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(hash[0]),
                static_cast<unsigned long long>(hash[1]));
  return text;
}

}  // namespace

std::string weights_hash(const TensorMap& weights, at::ScalarType as) {
  return hash_of(weights, as, {});
}

std::string model_hash(const Model& model) {
  return hash_of(model.weights(), std::nullopt, {murmur3(computation(model.config()))});
}

}  // namespace stepward
