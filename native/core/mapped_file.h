// A file mapped read-only, unmapped when its last owner goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace stepward {

class MappedFile {
 public:
  // Throws FILE_NOT_FOUND or IO_ERROR. An empty file maps to size 0.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& file);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  MappedFile(const std::byte* data, uint64_t size) : data_(data), size_(size) {}

  const std::byte* data_;
  uint64_t size_;
};

}  // namespace stepward
