// C++ exceptions as JavaScript errors: `code` from the one table, a message without C++ frames, and the native
// backtrace beside it in `nativeTrace`. src/native/engine.ts makes StepwardErrors of them.
#pragma once

#include <exception>
#include <string>

#include "addon/napi_setup.h"
#include "stepward/error.h"

namespace stepward::addon {

// What is known of an exception once it left the thread that threw it.
struct Failure {
  ErrorCode code = ErrorCode::INTERNAL;
  std::string message;
  std::string trace;  // C++ backtrace where torch recorded one
};

// Never throws. stepward::Error keeps its code, allocation failures become OUT_OF_MEMORY, file system failures
// IO_ERROR, anything else INTERNAL.
Failure describe(const std::exception_ptr& exception) noexcept;

// JS thread: the Error object of a failure.
Napi::Error to_js_error(Napi::Env env, const Failure& failure);

}  // namespace stepward::addon
