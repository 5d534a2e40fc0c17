#include "addon/errors.h"

#include <c10/util/Exception.h>

#include <filesystem>
#include <ios>
#include <new>
#include <string_view>

namespace stepward::addon {
namespace {

// libtorch reports a failed CPU allocation as a plain c10::Error, with this before the sentence itself.
constexpr std::string_view kCpuAllocator = "DefaultCPUAllocator: ";

// The sentence meant for people; the place in libtorch's sources around it goes into the trace.
Failure from_torch(ErrorCode code, const c10::Error& error) {
  Failure failure{code, error.what_without_backtrace(), error.what()};
  if (const auto end = failure.message.find("\nException raised from"); end != std::string::npos) {
    failure.message.resize(end);
  }
  if (const auto start = failure.message.find(kCpuAllocator); start != std::string::npos) {
    failure.code = ErrorCode::OUT_OF_MEMORY;
    failure.message.erase(0, start + kCpuAllocator.size());
  }
  return failure;
}

}  // namespace

Failure describe(const std::exception_ptr& exception) noexcept {
  try {
    try {
      std::rethrow_exception(exception);
    } catch (const Error& e) {
      return {e.code(), e.what(), ""};
    } catch (const c10::OutOfMemoryError& e) {
      return from_torch(ErrorCode::OUT_OF_MEMORY, e);
    } catch (const c10::Error& e) {
      return from_torch(ErrorCode::INTERNAL, e);
    } catch (const std::bad_alloc&) {
      return {ErrorCode::OUT_OF_MEMORY, "an allocation in main memory failed", ""};
    } catch (const std::filesystem::filesystem_error& e) {
      return {ErrorCode::IO_ERROR, e.what(), ""};
    } catch (const std::ios_base::failure& e) {
      return {ErrorCode::IO_ERROR, e.what(), ""};
    } catch (const std::exception& e) {
      return {ErrorCode::INTERNAL, e.what(), ""};
    } catch (...) {
      return {ErrorCode::INTERNAL, "an exception of unknown type was thrown", ""};
    }
  } catch (...) {
    return {};  // no memory to copy the message
  }
}

Napi::Error to_js_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, error_code_name(failure.code)));
  if (!failure.trace.empty()) error.Set("nativeTrace", Napi::String::New(env, failure.trace));
  return error;
}

}  // namespace stepward::addon
