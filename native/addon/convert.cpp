#include "addon/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "stepward/error.h"

namespace stepward::addon {
namespace {

template <typename T>
struct ArrayType;
template <>
struct ArrayType<int32_t> {
  static constexpr napi_typedarray_type kind = napi_int32_array;
  static constexpr const char* name = "an Int32Array";
};
template <>
struct ArrayType<uint8_t> {
  static constexpr napi_typedarray_type kind = napi_uint8_array;
  static constexpr const char* name = "a Uint8Array";
};
template <>
struct ArrayType<float> {
  static constexpr napi_typedarray_type kind = napi_float32_array;
  static constexpr const char* name = "a Float32Array";
};
template <>
struct ArrayType<double> {
  static constexpr napi_typedarray_type kind = napi_float64_array;
  static constexpr const char* name = "a Float64Array";
};
template <>
struct ArrayType<uint64_t> {
  static constexpr napi_typedarray_type kind = napi_biguint64_array;
  static constexpr const char* name = "a BigUint64Array";
};

// Short and harmless to compute: never calls into user code.
std::string shown(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined:
      return "nothing";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number: {
      std::ostringstream text;
      text << value.As<Napi::Number>().DoubleValue();
      return text.str();
    }
    case napi_string: {
      std::string text = value.As<Napi::String>().Utf8Value();
      if (text.size() > 60) text = text.substr(0, 60) + "...";
      return "'" + text + "'";
    }
    case napi_symbol:
      return "a symbol";
    case napi_object:
      if (value.IsArray()) return "an Array";
      if (value.IsTypedArray()) return "another typed array";
      return "an object";
    case napi_function:
      return "a function";
    case napi_external:
      return "a native handle";
    case napi_bigint:
      return "a bigint";
  }
  return "an unknown value";
}

template <typename Array, typename T>
Napi::Value copy_out(Napi::Env env, const std::vector<T>& values) {
  auto array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  return array;
}

}  // namespace

void Field::wrong(const std::string& expected) const {
  fail(ErrorCode::INVALID_ARGUMENT, path_, ": expected ", expected, ", got ", shown(value_));
}

Field Field::operator[](const char* name) const {
  if (!value_.IsObject() || value_.IsArray() || value_.IsTypedArray()) wrong("an object");
  return {value_.As<Napi::Object>().Get(name), path_ + "." + name};
}

double Field::number() const {
  if (!value_.IsNumber()) wrong("a number");
  const double number = value_.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(number)) wrong("a finite number");
  return number;
}

int64_t Field::integer(int64_t lowest, int64_t highest) const {
  const double number = value_.IsNumber() ? value_.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= static_cast<double>(lowest) && number <= static_cast<double>(highest)) ||
      number != std::floor(number)) {
    wrong("an integer from " + std::to_string(lowest) + " to " + std::to_string(highest));
  }
  return static_cast<int64_t>(number);
}

uint64_t Field::uint64() const {
  bool lossless = false;
  uint64_t number = 0;
  if (value_.IsBigInt()) number = value_.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) wrong("a bigint from 0 to 2^64 - 1");
  return number;
}

bool Field::boolean() const {
  if (!value_.IsBoolean()) wrong("a boolean");
  return value_.As<Napi::Boolean>().Value();
}

std::string Field::text() const {
  if (!value_.IsString()) wrong("a string");
  return value_.As<Napi::String>().Utf8Value();
}

std::vector<std::string> Field::texts() const {
  if (!value_.IsArray()) wrong("an Array of strings");
  const auto array = value_.As<Napi::Array>();
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    texts.push_back(Field(array.Get(i), path_ + "[" + std::to_string(i) + "]").text());
  }
  return texts;
}

template <typename T>
std::vector<T> Field::array() const {
  using Type = ArrayType<T>;
  if (!value_.IsTypedArray() || value_.As<Napi::TypedArray>().TypedArrayType() != Type::kind) wrong(Type::name);
  const auto array = value_.As<Napi::TypedArrayOf<T>>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

template <typename T>
std::vector<T> Field::array(size_t length, const char* counted) const {
  std::vector<T> values = array<T>();
  if (values.size() != length) {
    fail(ErrorCode::INVALID_ARGUMENT, path_, ": expected ", length, " elements (", counted, "), got ", values.size());
  }
  return values;
}

template std::vector<int32_t> Field::array() const;
template std::vector<uint8_t> Field::array() const;
template std::vector<float> Field::array() const;
template std::vector<double> Field::array() const;
template std::vector<uint64_t> Field::array() const;
template std::vector<int32_t> Field::array(size_t, const char*) const;
template std::vector<uint8_t> Field::array(size_t, const char*) const;
template std::vector<float> Field::array(size_t, const char*) const;
template std::vector<uint64_t> Field::array(size_t, const char*) const;

Forest Field::forest() const {
  Forest forest;
  forest.tokens = (*this)["tokens"].array<int32_t>();
  forest.parents = (*this)["parents"].array<int32_t>();
  forest.offsets = (*this)["offsets"].array<int32_t>(forest.parents.size() + 1, "one more than parents");
  return forest;
}

Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values) {
  return copy_out<Napi::Int32Array>(env, values);
}
Napi::Value to_js(Napi::Env env, const std::vector<float>& values) {
  return copy_out<Napi::Float32Array>(env, values);
}
Napi::Value to_js(Napi::Env env, const std::vector<double>& values) {
  return copy_out<Napi::Float64Array>(env, values);
}
Napi::Value to_js(Napi::Env env, const std::vector<uint8_t>& values) {
  return copy_out<Napi::Uint8Array>(env, values);
}

Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& values) {
  std::vector<int32_t> narrow;
  narrow.reserve(values.size());
  for (const int64_t value : values) {
    if (value > std::numeric_limits<int32_t>::max()) {
      fail(ErrorCode::OUT_OF_MEMORY, "the result holds ", values.back(), " tokens; at most 2^31 - 1 fit in one call");
    }
    narrow.push_back(static_cast<int32_t>(value));
  }
  return to_js(env, narrow);
}

Napi::Value to_js(Napi::Env env, int64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}
Napi::Value to_js(Napi::Env env, double value) {
  return Napi::Number::New(env, value);
}
Napi::Value to_js(Napi::Env env, const std::string& value) {
  return Napi::String::New(env, value);
}

}  // namespace stepward::addon
