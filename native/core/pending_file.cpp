// Write, fsync, rename. Which files make up a checkpoint is left to checkpoint_save.cpp.
#include "pending_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stepward/error.h"

namespace stepward {

namespace {

constexpr const char* temporary_mark = ".stepward-tmp";

}  // namespace

PendingFile::PendingFile(std::filesystem::path target) : target_(std::move(target)) {
  temporary_ = target_;
  temporary_.replace_filename("." + target_.filename().string() + temporary_mark + std::to_string(::getpid()));
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) io_error("created");
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

PendingFile::~PendingFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void PendingFile::write(const void* data, size_t size) {
  // One call writes at most 2 GiB on Linux.
  constexpr size_t chunk = size_t{1} << 30;
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(size, chunk));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) io_error("written");
    next += written;
    size -= static_cast<size_t>(written);
  }
}

void PendingFile::finish() {
  if (::fsync(descriptor_) != 0) io_error("written to disk");
  if (::close(std::exchange(descriptor_, -1)) != 0) io_error("closed");
}

void PendingFile::publish() {
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) io_error("renamed into place");
  temporary_.clear();
}

bool PendingFile::is_temporary(std::string_view name) {
  return name.starts_with('.') && name.find(temporary_mark) != std::string_view::npos;
}

void PendingFile::io_error(const char* what) const {
  const std::string reason = std::strerror(errno);
  fail(ErrorCode::IO_ERROR, target_.string(), " could not be ", what, ": ", reason);
}

}  // namespace stepward
