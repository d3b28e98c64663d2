// The safetensors container: 8 bytes of header length (little endian), a JSON header, then the
// data. Format: https://github.com/huggingface/safetensors. Everything the header claims is checked
// against the file before anything is used. Pure; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/tensor/dtype.h"

namespace choir {

inline constexpr uint64_t kSafetensorsHeaderMaxBytes = 100'000'000;  // as the format's own limit
inline constexpr size_t kTensorRankMax = 8;

struct TensorInfo {
  std::string name;
  std::string dtype_name;      // as in the file: "BF16"
  std::optional<DType> dtype;  // empty: a type this program does not compute with
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // in the file
  uint64_t bytes = 0;
};

// `path` is for messages. Tensors in ascending offset; they do not overlap and leave no holes.
StatusOr<std::vector<TensorInfo>> ParseSafetensors(std::span<const std::byte> file,
                                                   const std::string& path);

}  // namespace choir
