// The one error type of the core. Codes come from the table in error_codes.def, which src/errors.ts mirrors
// (scripts/check-contract.mjs fails when the two differ).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace stepward {

enum class ErrorCode {
#define STEPWARD_ERROR(name, exit_code, meaning) name,
#include "stepward/error_codes.def"
#undef STEPWARD_ERROR
};

// The code's name as TypeScript sees it, for example "TOKEN_OUT_OF_RANGE".
const char* error_code_name(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error(code) with the pieces streamed together: fail(ErrorCode::INVALID_ARGUMENT, "beta must be > 0, got ", b).
template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(code, message.str());
}

}  // namespace stepward
