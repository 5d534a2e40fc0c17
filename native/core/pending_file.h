// A file written under a temporary name beside its place and renamed when complete, so that readers and failures only
// ever see the old file or the whole new one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace stepward {

class PendingFile {
 public:
  // Creates the temporary file. Throws IO_ERROR, as every function here does.
  explicit PendingFile(std::filesystem::path target);
  ~PendingFile();  // removes what was not published
  PendingFile(PendingFile&& other) noexcept;
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void finish();   // to disk, and closed
  void publish();  // takes the target's name; call finish() first
  const std::filesystem::path& target() const { return target_; }

  // Whether a file name is a temporary one of this class; one that is still there was left by a killed process.
  static bool is_temporary(std::string_view name);

 private:
  [[noreturn]] void io_error(const char* what) const;

  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
};

}  // namespace stepward
