// A value that is no tensor, kept by an autograd graph until its backward pass.
#pragma once

#include <utility>

#include <ATen/core/ivalue.h>

namespace stepward {

template <typename T>
struct Held : torch::CustomClassHolder {
  explicit Held(T value) : value(std::move(value)) {}
  T value;
};

template <typename T>
c10::IValue hold(T value) {
  return c10::IValue::make_capsule(c10::make_intrusive<Held<T>>(std::move(value)));
}

// T as it was given to hold().
template <typename T>
T held(const c10::IValue& value) {
  return c10::static_intrusive_pointer_cast<Held<T>>(value.toCapsule())->value;
}

}  // namespace stepward
