// JavaScript values as C++ ones and back, by copy. Each check names the field: "request.seed: expected a bigint, got
// 3".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "addon/napi_setup.h"
#include "stepward/forest.h"

namespace stepward::addon {

// A value with the path that leads to it. All throw INVALID_ARGUMENT.
class Field {
 public:
  Field(Napi::Value value, std::string path) : value_(value), path_(std::move(path)) {}

  // A property; missing ones are undefined, which only present() and the optional readers accept.
  Field operator[](const char* name) const;
  bool present() const { return !value_.IsUndefined(); }

  double number() const;  // finite
  int64_t integer(int64_t lowest, int64_t highest) const;
  uint64_t uint64() const;  // a bigint in [0, 2^64)
  bool boolean() const;
  std::string text() const;
  std::vector<std::string> texts() const;

  // Int32Array, Uint8Array, Float32Array, Float64Array or BigUint64Array for int32_t, uint8_t, float, double, uint64_t.
  template <typename T>
  std::vector<T> array() const;
  // The same, of exactly `length` elements.
  template <typename T>
  std::vector<T> array(size_t length, const char* counted) const;

  Forest forest() const;  // its own consistency is the core's to check

  const std::string& path() const { return path_; }
  [[noreturn]] void wrong(const std::string& expected) const;

 private:
  Napi::Value value_;
  std::string path_;
};

Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value to_js(Napi::Env env, const std::vector<float>& values);
Napi::Value to_js(Napi::Env env, const std::vector<double>& values);
Napi::Value to_js(Napi::Env env, const std::vector<uint8_t>& values);
// As an Int32Array. Throws OUT_OF_MEMORY where a value does not fit.
Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& values);
Napi::Value to_js(Napi::Env env, int64_t value);
Napi::Value to_js(Napi::Env env, double value);
Napi::Value to_js(Napi::Env env, const std::string& value);

}  // namespace stepward::addon
