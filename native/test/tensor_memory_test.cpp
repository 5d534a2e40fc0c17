// Memory of large tensors while something is trained: that no two tensors share any, and how much of it there is.
#include "core/train/tensor_memory.h"

#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace stepward {
namespace {

int64_t resident_kib() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("RssAnon:", 0) == 0) return std::stoll(line.substr(8));
  }
  return -1;
}

at::Tensor filled(int64_t kib, float value) {
  return at::full({kib * 256}, value);
}

TEST(TensorMemory, TensorsKeepTheirValuesWhateverComesAndGoes) {
  std::mt19937 random(7);
  std::vector<std::pair<at::Tensor, float>> live;
  const auto check = [&] {
    for (const auto& [tensor, value] : live) ASSERT_TRUE(tensor.eq(value).all().item<bool>());
  };
  for (int round = 0; round < 3; ++round) {
    const TensorMemory memory;
    for (int move = 0; move < 300; ++move) {
      if (live.size() < 5 || (live.size() < 40 && random() % 2 == 0)) {
        const auto value = static_cast<float>(random() % 1000);
        live.emplace_back(filled(100 + static_cast<int64_t>(random() % 3000), value), value);
      } else {
        live.erase(live.begin() + static_cast<int64_t>(random() % live.size()));
      }
    }
    check();
  }
  check();  // what outlives the object that it was made under
}

TEST(TensorMemory, NeighboursThatAreGivenBackAreOnePlace) {
  const TensorMemory memory;
  // Where a tensor of 6 MiB was, four smaller ones fit, and when those are gone another large one.
  const void* place = filled(6144, 0.0f).const_data_ptr();
  {
    std::vector<at::Tensor> small;
    for (int i = 0; i < 4; ++i) small.push_back(filled(1536, 0.0f));
    for (const at::Tensor& tensor : small) {
      const auto offset = static_cast<const char*>(tensor.const_data_ptr()) - static_cast<const char*>(place);
      EXPECT_TRUE(offset >= 0 && offset < int64_t{6} << 20);
    }
    std::swap(small[1], small[2]);  // given back out of order
  }
  EXPECT_EQ(filled(6144, 0.0f).const_data_ptr(), place);
}

// Many of one size, then as much in another: the same memory, joined and cut again.
TEST(TensorMemory, SizesThatChangeTakeNoMoreThanWasInUse) {
  const TensorMemory memory;
  const int64_t before = resident_kib();
  for (int round = 0; round < 4; ++round) {
    for (const int64_t kib : {1024, 2816, 448}) {
      std::vector<at::Tensor> all;
      for (int64_t sum = 0; sum + kib <= 65536; sum += kib) all.push_back(filled(kib, 1.0f));
      EXPECT_LE(resident_kib() - before, 65536 + 65536 / 16 + 2048) << "tensors of " << kib << " KiB";
    }
  }
}

}  // namespace
}  // namespace stepward
