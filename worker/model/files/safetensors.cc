#include "worker/model/files/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>

#include "common/files/json_file.h"

namespace choir {
namespace {

struct FileDType {
  const char* name;
  uint64_t bytes;
  std::optional<DType> dtype;
};

constexpr FileDType kDTypes[] = {
    {"F32", 4, DType::kF32}, {"BF16", 2, DType::kBF16},
    {"F16", 2, DType::kF16}, {"I32", 4, DType::kI32},
    {"I64", 8, DType::kI64}, {"U8", 1, DType::kU8},
    {"BOOL", 1, {}},         {"I8", 1, {}},
    {"I16", 2, {}},          {"U16", 2, {}},
    {"U32", 4, {}},          {"U64", 8, {}},
    {"F64", 8, {}},          {"F8_E4M3", 1, DType::kF8E4M3},
    {"F8_E5M2", 1, {}},      {"F8_E8M0", 1, {}},
    {"C64", 8, {}},
};

const FileDType* FindDType(std::string_view name) {
  for (const FileDType& d : kDTypes) {
    if (name == d.name) return &d;
  }
  return nullptr;
}

// a * b, or nullopt when it does not fit into 63 bits.
std::optional<uint64_t> Product(uint64_t a, uint64_t b) {
  uint64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out) || out > uint64_t{1} << 62) return std::nullopt;
  return out;
}

StatusOr<TensorInfo> ReadEntry(const std::string& path, const std::string& name,
                               const nlohmann::json& entry, uint64_t data_begin,
                               uint64_t file_size) {
  const auto bad = [&](const char* field, const std::string& what) {
    return InvalidArgument("{}: tensor {}: {}: {}; the file is damaged, fetch it again", path, name,
                           field, what);
  };
  if (!entry.is_object()) return bad("entry", "must be an object");
  const auto dtype = entry.find("dtype"), shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return bad("dtype", "must be a string");
  if (shape == entry.end() || !shape->is_array()) return bad("shape", "must be a list");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return bad("data_offsets", "must be two integers of at least 0");
  }
  TensorInfo info;
  info.name = name;
  info.dtype_name = dtype->get<std::string>();
  const FileDType* type = FindDType(info.dtype_name);
  if (type == nullptr) return bad("dtype", "'" + info.dtype_name.substr(0, 32) + "' is unknown");
  info.dtype = type->dtype;
  if (shape->size() > kTensorRankMax) return bad("shape", "has more than 8 dimensions");
  uint64_t want = type->bytes;
  for (const nlohmann::json& d : *shape) {
    if (!d.is_number_unsigned()) return bad("shape", "dimensions must be integers of at least 0");
    const std::optional<uint64_t> next = Product(want, d.get<uint64_t>());
    if (!next || d.get<uint64_t>() > uint64_t{1} << 62) return bad("shape", "is too large");
    want = *next;
    info.shape.push_back(static_cast<int64_t>(d.get<uint64_t>()));
  }
  const uint64_t begin = (*offsets)[0].get<uint64_t>(), end = (*offsets)[1].get<uint64_t>();
  if (end < begin) return bad("data_offsets", "end before they begin");
  if (end > file_size - data_begin) {
    return bad("data_offsets",
               fmt::format("end at byte {} of {} bytes of data", end, file_size - data_begin));
  }
  if (end - begin != want) {
    return bad("data_offsets",
               fmt::format("hold {} bytes, dtype and shape say {}", end - begin, want));
  }
  info.offset = data_begin + begin;
  info.bytes = want;
  return info;
}

Status CheckLayout(const std::string& path, const std::vector<TensorInfo>& tensors,
                   uint64_t data_begin, uint64_t file_size) {
  uint64_t at = data_begin;
  for (const TensorInfo& t : tensors) {
    if (t.offset < at) {
      return InvalidArgument(
          "{}: tensor {}: data_offsets: overlap another tensor; the file is "
          "damaged, fetch it again",
          path, t.name);
    }
    if (t.offset > at) {
      return InvalidArgument(
          "{}: tensor {}: data_offsets: leave a hole of {} bytes before it; the "
          "file is damaged, fetch it again",
          path, t.name, t.offset - at);
    }
    at = t.offset + t.bytes;
  }
  if (at != file_size) {
    return InvalidArgument(
        "{}: size: {} bytes follow the last tensor; the file is damaged, fetch it "
        "again",
        path, file_size - at);
  }
  return {};
}

}  // namespace

StatusOr<std::vector<TensorInfo>> ParseSafetensors(std::span<const std::byte> file,
                                                   const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  if (file.size() < 8) {
    return InvalidArgument("{}: header length: the file has only {} bytes; fetch it again", path,
                           file.size());
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  if (header_bytes > kSafetensorsHeaderMaxBytes || header_bytes > file.size() - 8) {
    return InvalidArgument(
        "{}: header length: {} does not fit a file of {} bytes (limit {}); the "
        "file is cut or not safetensors, fetch it again",
        path, header_bytes, file.size(), kSafetensorsHeaderMaxBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json header, ParseJson(text, path + ": header"));
  if (!header.is_object()) {
    return InvalidArgument("{}: header: must be a JSON object; the file is damaged, fetch it again",
                           path);
  }
  const uint64_t data_begin = 8 + header_bytes;
  std::vector<TensorInfo> tensors;
  tensors.reserve(header.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    if (name.size() > 1024) {
      return InvalidArgument(
          "{}: tensor name: longer than 1024; the file is damaged, fetch it again", path);
    }
    CHOIR_ASSIGN_OR_RETURN(TensorInfo info, ReadEntry(path, name, entry, data_begin, file.size()));
    tensors.push_back(std::move(info));
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  CHOIR_RETURN_IF_ERROR(CheckLayout(path, tensors, data_begin, file.size()));
  return tensors;
}

}  // namespace choir
