// The part of the safetensors format that reading and writing share: dtype names and the header's length limit.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace stepward {

// The reference implementation refuses longer headers, too.
constexpr uint64_t safetensors_header_limit = 100'000'000;

struct SafetensorsDtype {
  std::string_view name;
  at::ScalarType type;
};

constexpr std::array<SafetensorsDtype, 10> safetensors_dtypes{{
    {"F64", at::ScalarType::Double},
    {"F32", at::ScalarType::Float},
    {"F16", at::ScalarType::Half},
    {"BF16", at::ScalarType::BFloat16},
    {"I64", at::ScalarType::Long},
    {"I32", at::ScalarType::Int},
    {"I16", at::ScalarType::Short},
    {"I8", at::ScalarType::Char},
    {"U8", at::ScalarType::Byte},
    {"BOOL", at::ScalarType::Bool},
}};

}  // namespace stepward
