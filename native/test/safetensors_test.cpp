// read_safetensors and write_safetensors: every dtype there and back, and damaged files of every kind refused by name.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "helpers/temp_dir.h"
#include "stepward/checkpoint.h"

namespace stepward {
namespace {

using testing::expect_error;
using testing::TempDir;

std::string file_bytes(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\1');
}

TEST(Safetensors, EveryDtypeThereAndBack) {
  const TempDir directory;
  TensorMap tensors;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                           at::kChar, at::kByte, at::kBool}) {
    tensors[c10::toString(dtype)] = at::arange(-3, 4).to(dtype).reshape({7, 1});
  }
  tensors["scalar"] = at::scalar_tensor(2.5);
  tensors["empty"] = at::empty({3, 0}, at::kFloat);
  tensors["transposed"] = at::arange(6, at::kFloat).reshape({2, 3}).t();
  write_safetensors(directory / "a.safetensors", tensors);
  const TensorMap read = read_safetensors(directory / "a.safetensors");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.at(name).sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(at::equal(read.at(name), tensor)) << name;
  }
}

TEST(Safetensors, ViewsOutliveTheFile) {
  const TempDir directory;
  write_safetensors(directory / "a.safetensors", {{"x", at::arange(1000, at::kFloat)}});
  const at::Tensor x = read_safetensors(directory / "a.safetensors").at("x");
  std::filesystem::remove(directory / "a.safetensors");
  EXPECT_EQ(x.sum().item<double>(), 499500.0);
}

TEST(Safetensors, ReadsUnalignedDataOfOldWriters) {
  const TempDir directory;
  const std::string header = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_NE(header.size() % 4, 0u);
  std::string bytes = file_bytes(header, 8);
  const float values[] = {1.5f, -2.5f};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  const TensorMap read = read_safetensors(directory.write("a.safetensors", bytes));
  EXPECT_TRUE(at::equal(read.at("x"), at::tensor({1.5f, -2.5f})));
}

TEST(Safetensors, HeaderIsPaddedAndSorted) {
  const TempDir directory;
  write_safetensors(directory / "a.safetensors",
                    {{"b", at::zeros({1})}, {"a", at::zeros({1})}, {"c", at::zeros({1}, at::kDouble)}});
  const std::string bytes = directory.read("a.safetensors");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  const std::string header = bytes.substr(8, length);
  EXPECT_EQ(
      header.substr(0, header.find_last_not_of(' ') + 1),
      R"({"__metadata__":{"format":"pt"},"c":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})");
  EXPECT_EQ(bytes.size(), 8 + length + 16);
}

TEST(Safetensors, WritingLeavesNothingBehindWhenItFails) {
  const TempDir directory;
  directory.write("a.safetensors", "old");
  expect_error(ErrorCode::INVALID_ARGUMENT, {"x", "ComplexFloat"},
               [&] { write_safetensors(directory / "a.safetensors", {{"x", at::zeros({1}, at::kComplexFloat)}}); });
  EXPECT_EQ(directory.read("a.safetensors"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
  expect_error(ErrorCode::IO_ERROR, {"none"}, [&] { write_safetensors(directory / "none/a.safetensors", {}); });
}

struct Damage {
  const char* header;
  size_t data_bytes;
  std::vector<std::string> parts;
};

TEST(Safetensors, RefusesDamagedHeaders) {
  const TempDir directory;
  const std::vector<Damage> cases{
      {"{", 0, {"not valid JSON"}},
      {"[]", 0, {"not a JSON object"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, {"truncated", "x", "expected 70", "has 66"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       12,
       {"expected 70", "has 74", "belong to no tensor"}},
      {R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, {"x", "needs 12 bytes", "hold 8"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, {"bytes 0 to 4", "belong to no tensor"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, {"impossible data_offsets"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, {"impossible data_offsets"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,1e3]}})", 8, {"impossible data_offsets"}},
      {R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, {"impossible shape"}},
      {R"({"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}})", 8, {"impossible shape"}},
      {R"({"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8, {"impossible shape"}},
      {R"({"x":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}})",
       0,
       {"impossible shape"}},
      {R"({"x":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, {"shape"}},
      {R"({"x":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})", 8, {"x", "unsupported dtype", "F8_E4M3"}},
      {R"({"x":{"shape":[2],"data_offsets":[0,8]}})", 8, {"x", "dtype"}},
      {R"({"x":7})", 8, {"x", "dtype"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12,
       {"y", "begins at byte 4", "ends at 8"}},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8,
       {"\"x\" twice"}},
  };
  for (const Damage& damage : cases) {
    SCOPED_TRACE(damage.header);
    const auto file = directory.write("a.safetensors", file_bytes(damage.header, damage.data_bytes));
    std::vector<std::string> parts = damage.parts;
    parts.push_back("a.safetensors");
    expect_error(ErrorCode::CHECKPOINT_INVALID, parts, [&] { read_safetensors(file); });
  }
}

TEST(Safetensors, RefusesImpossibleHeaderLengths) {
  const TempDir directory;
  const auto expect_refused = [&](const std::string& bytes, const std::vector<std::string>& parts) {
    const auto file = directory.write("a.safetensors", bytes);
    expect_error(ErrorCode::CHECKPOINT_INVALID, parts, [&] { read_safetensors(file); });
  };
  expect_refused("", {"at least 8 bytes", "has 0"});
  expect_refused("1234", {"at least 8 bytes", "has 4"});
  expect_refused(std::string("\x10\0\0\0\0\0\0\0{}", 10), {"header ends at byte 24", "has 10"});
  expect_refused(std::string(8, '\xff') + "{}", {"18446744073709551615"});
  expect_error(ErrorCode::FILE_NOT_FOUND, {"b.safetensors"}, [&] { read_safetensors(directory / "b.safetensors"); });
}

// Whatever the damage: tensors or a CHECKPOINT_INVALID, never a crash or another error.
TEST(Safetensors, RandomDamageNeverCrashes) {
  const TempDir directory;
  TensorMap tensors;
  for (int i = 0; i < 6; ++i) tensors["layer." + std::to_string(i)] = at::full({3, i + 1}, i, at::kFloat);
  write_safetensors(directory / "good.safetensors", tensors);
  const std::string good = directory.read("good.safetensors");
  uint64_t header_length = 0;
  std::memcpy(&header_length, good.data(), 8);
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = good;
    if (round % 4 == 0) {
      bytes.resize(random() % good.size());
    } else {
      const int flips = 1 + static_cast<int>(random() % 3);
      for (int k = 0; k < flips; ++k) bytes[random() % (8 + header_length)] ^= static_cast<char>(1u << (random() % 8));
    }
    const auto file = directory.write("bad.safetensors", bytes);
    try {
      double sum = 0;
      for (const auto& [name, tensor] : read_safetensors(file)) sum += tensor.to(at::kDouble).sum().item<double>();
      EXPECT_FALSE(round % 4 == 0) << "a truncated file was accepted, sum " << sum;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::CHECKPOINT_INVALID) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace stepward
