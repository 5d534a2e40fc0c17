// One .safetensors file to views of its mapping. Every number of the header is checked before it is used, so a damaged
// file gives an error and never a wild read. Folders, shards and expected names are checkpoint_load.cpp's business.
#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/ScalarType.h>

#include "json_fields.h"
#include "mapped_file.h"
#include "safetensors_format.h"
#include "stepward/checkpoint.h"
#include "stepward/error.h"

namespace stepward {

namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string name;
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes from the start of the data
};

template <typename... Parts>
[[noreturn]] void bad_file(const fs::path& file, const Parts&... parts) {
  fail(ErrorCode::CHECKPOINT_INVALID, file.string(), ": ", parts...);
}

uint64_t read_header_length(const fs::path& file, const MappedFile& mapped) {
  if (mapped.size() < 8) bad_file(file, "truncated: a safetensors file has at least 8 bytes, this has ", mapped.size());
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i) length |= std::to_integer<uint64_t>(mapped.data()[i]) << (8 * i);
  if (length > safetensors_header_limit) {
    bad_file(file, "not a safetensors file: its first 8 bytes say the header has ", length,
             " bytes, more than the format's limit of ", safetensors_header_limit);
  }
  if (length > mapped.size() - 8) {
    bad_file(file, "truncated: the header ends at byte ", length + 8, ", the file has ", mapped.size(), " bytes");
  }
  return length;
}

Json parse_header(const fs::path& file, const char* text, uint64_t length) {
  // nlohmann keeps the last of equal keys without a word; the callback sees each of them. Depth 1: tensor names.
  std::set<std::string> names;
  const auto note = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1 && !names.insert(parsed.get<std::string>()).second) {
      bad_file(file, "the header names tensor \"", parsed.get<std::string>(), "\" twice");
    }
    return true;
  };
  Json header;
  try {
    header = Json::parse(text, text + length, note);
  } catch (const Json::exception& error) {
    bad_file(file, "the safetensors header is not valid JSON: ", error.what());
  }
  if (!header.is_object()) bad_file(file, "the safetensors header is not a JSON object but ", header.type_name());
  return header;
}

// Unsigned integer or nothing: negative, fractional and huge numbers are all refused the same way.
bool as_unsigned(const Json& value, uint64_t& result) {
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<int64_t>() < 0)) return false;
  result = value.get<uint64_t>();
  return result <= uint64_t{INT64_MAX};
}

Entry parse_entry(const fs::path& file, const std::string& name, const Json& value) {
  Entry entry;
  entry.name = name;
  const auto field = [&](const char* key) -> const Json& {
    if (!value.is_object() || !value.contains(key))
      bad_file(file, "tensor ", name, " has no \"", key, "\" in the header");
    return value[key];
  };
  const Json& dtype = field("dtype");
  const auto known = std::find_if(safetensors_dtypes.begin(), safetensors_dtypes.end(),
                                  [&](const SafetensorsDtype& row) { return dtype == row.name; });
  if (known == safetensors_dtypes.end()) bad_file(file, "tensor ", name, " has unsupported dtype ", dtype.dump());
  entry.dtype = known->type;

  const Json& shape = field("shape");
  if (!shape.is_array()) bad_file(file, "tensor ", name, ": \"shape\" is not a list");
  // Strides are products that take 0 as 1, so they must fit even where the tensor is empty.
  uint64_t bytes = c10::elementSize(entry.dtype), widest = bytes;
  for (const Json& item : shape) {
    uint64_t extent = 0;
    if (!as_unsigned(item, extent) || __builtin_mul_overflow(widest, std::max<uint64_t>(extent, 1), &widest) ||
        widest > uint64_t{INT64_MAX}) {
      bad_file(file, "tensor ", name, " has an impossible shape ", shape.dump());
    }
    bytes *= extent;
    entry.shape.push_back(static_cast<int64_t>(extent));
  }
  const Json& offsets = field("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !as_unsigned(offsets[0], entry.begin) ||
      !as_unsigned(offsets[1], entry.end) || entry.end < entry.begin) {
    bad_file(file, "tensor ", name, " has impossible data_offsets ", offsets.dump());
  }
  if (entry.end - entry.begin != bytes) {
    bad_file(file, "tensor ", name, " of dtype ", known->name, " and shape ", shape.dump(), " needs ", bytes,
             " bytes, its data_offsets hold ", entry.end - entry.begin);
  }
  return entry;
}

// Sorted by offset, the tensors must tile the data exactly.
void check_layout(const fs::path& file, std::vector<Entry>& entries, uint64_t header_end, uint64_t file_size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin < position) {
      bad_file(file, "tensor ", entry.name, " begins at byte ", entry.begin,
               " of the data, inside the one before, which ends at ", position);
    }
    if (entry.begin > position) {
      bad_file(file, "bytes ", position, " to ", entry.begin, " of the data, before tensor ", entry.name,
               ", belong to no tensor");
    }
    position = entry.end;
  }
  const uint64_t actual = file_size - header_end;
  if (position > actual) {
    bad_file(file, "truncated: expected ", header_end + position, " bytes, the file has ", file_size, " (tensor ",
             entries.back().name, " ends there)");
  }
  if (position < actual) {
    bad_file(file, "expected ", header_end + position, " bytes, the file has ", file_size, ": ", actual - position,
             " bytes at its end belong to no tensor");
  }
}

at::Tensor make_view(const std::shared_ptr<const MappedFile>& mapped, const Entry& entry, uint64_t header_end) {
  const std::byte* data = mapped->data() + header_end + entry.begin;
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(entry.dtype) != 0) {
    // Old writers did not pad the header; kernels may not read such addresses as numbers.
    at::Tensor copy = at::empty(entry.shape, entry.dtype);
    std::memcpy(copy.mutable_data_ptr(), data, entry.end - entry.begin);
    return copy;
  }
  return at::from_blob(const_cast<std::byte*>(data), entry.shape, [mapped](void*) {}, entry.dtype);
}

}  // namespace

std::map<std::string, std::string> read_safetensors_metadata(const fs::path& file) {
  const std::shared_ptr<const MappedFile> mapped = MappedFile::open(file);
  const Json header =
      parse_header(file, reinterpret_cast<const char*>(mapped->data()) + 8, read_header_length(file, *mapped));
  std::map<std::string, std::string> metadata;
  const auto found = header.find("__metadata__");
  if (found == header.end()) return metadata;
  if (!found->is_object()) bad_file(file, "__metadata__ is not a JSON object but ", found->type_name());
  for (const auto& [key, value] : found->items()) {
    if (!value.is_string()) bad_file(file, "__metadata__ entry ", key, " is not a string but ", value.type_name());
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

TensorMap read_safetensors(const fs::path& file) {
  const std::shared_ptr<const MappedFile> mapped = MappedFile::open(file);
  const uint64_t length = read_header_length(file, *mapped);
  const uint64_t header_end = 8 + length;
  const Json header = parse_header(file, reinterpret_cast<const char*>(mapped->data()) + 8, length);
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") entries.push_back(parse_entry(file, name, value));
  }
  check_layout(file, entries, header_end, mapped->size());
  TensorMap tensors;
  for (const Entry& entry : entries) tensors.emplace(entry.name, make_view(mapped, entry, header_end));
  return tensors;
}

}  // namespace stepward
