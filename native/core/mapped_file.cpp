// mmap with RAII. What the bytes mean is left to safetensors_read.cpp.
#include "mapped_file.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stepward/error.h"

namespace stepward {

namespace {

struct Descriptor {
  explicit Descriptor(int value) : value(value) {}
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
  Descriptor(const Descriptor&) = delete;
  const int value;
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& file) {
  const Descriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (descriptor.value < 0) {
    const ErrorCode code = errno == ENOENT ? ErrorCode::FILE_NOT_FOUND : ErrorCode::IO_ERROR;
    fail(code, file.string(), " could not be opened: ", std::strerror(errno));
  }
  struct stat status{};
  if (::fstat(descriptor.value, &status) != 0) {
    fail(ErrorCode::IO_ERROR, file.string(), " could not be read: ", std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) fail(ErrorCode::IO_ERROR, file.string(), " is not a regular file");
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(nullptr, 0));
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.value, 0);
  if (data == MAP_FAILED) {
    fail(ErrorCode::IO_ERROR, file.string(), " could not be mapped: ", std::strerror(errno));
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace stepward
