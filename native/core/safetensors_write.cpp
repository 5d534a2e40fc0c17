// Tensors to one .safetensors file: header padded to 8 bytes, then the data in the header's order.
#include "safetensors_write.h"

#include <algorithm>
#include <bit>

#include <ATen/core/Tensor.h>

#include "json_fields.h"
#include "safetensors_format.h"
#include "stepward/error.h"

namespace stepward {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

namespace {

std::string_view dtype_name(const std::string& name, const at::Tensor& tensor) {
  for (const SafetensorsDtype& row : safetensors_dtypes) {
    if (row.type == tensor.scalar_type()) return row.name;
  }
  fail(ErrorCode::INVALID_ARGUMENT, "tensor ", name, " has dtype ", c10::toString(tensor.scalar_type()),
       ", which cannot be written to safetensors");
}

// Wide elements first keeps every tensor aligned to its element; by name within one width.
std::vector<const TensorMap::value_type*> file_order(const TensorMap& tensors) {
  std::vector<const TensorMap::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->second.element_size() > b->second.element_size(); });
  return order;
}

}  // namespace

void write_safetensors_into(PendingFile& file, const TensorMap& tensors,
                            const std::map<std::string, std::string>& metadata) {
  const auto order = file_order(tensors);
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto* item : order) {
    const at::Tensor& tensor = item->second;
    const int64_t end = offset + tensor.numel() * tensor.element_size();
    header[item->first] = {
        {"dtype", dtype_name(item->first, tensor)}, {"shape", tensor.sizes().vec()}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > safetensors_header_limit) {
    fail(ErrorCode::INVALID_ARGUMENT, file.target().string(), ": a safetensors header may have ",
         safetensors_header_limit, " bytes, this one has ", text.size());
  }
  const uint64_t length = text.size();
  file.write(&length, sizeof length);
  file.write(text);
  for (const auto* item : order) {
    const at::Tensor data = item->second.detach().cpu().contiguous();
    file.write(data.const_data_ptr(), data.nbytes());
  }
  file.finish();
}

void write_safetensors(const std::filesystem::path& file, const TensorMap& tensors,
                       const std::map<std::string, std::string>& metadata) {
  PendingFile pending(file);
  write_safetensors_into(pending, tensors, metadata);
  pending.publish();
}

}  // namespace stepward
