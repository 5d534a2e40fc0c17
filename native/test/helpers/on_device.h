// What the tests of CUDA code share: vectors on the device, a fixture that skips where there is none, and comparison.
#pragma once

#ifdef STEPWARD_CUDA

#include <cuda_runtime.h>

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace stepward::kernels {

// A device copy of a vector, read back with host().
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, size_ * sizeof(T) + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t size_;
  void* data_ = nullptr;
};

class CudaTwins : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// Within `relative` times 1 + |expected|.
inline void expect_near(const std::vector<float>& got, const std::vector<float>& expected, double relative) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;  // infinities too
    ASSERT_NEAR(got[i], expected[i], relative * (1.0 + std::abs(expected[i]))) << "at " << i;
  }
}

}  // namespace stepward::kernels

#endif
