// Writes one safetensors file: the header with all tensors first, then their bytes in the declared
// order, so a model larger than memory can be written. Bytes are deterministic, and hashed on the
// way. Used by one thread. Errors name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/tensor/dtype.h"

namespace choir {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;

  int64_t num_elements() const;
  uint64_t num_bytes() const;
};

class SafetensorsWriter {
 public:
  static StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      std::string path, const std::vector<TensorSpec>& tensors);
  ~SafetensorsWriter();  // closes; the file is good only after Finish

  // REQUIRES: no more bytes in all than were declared.
  Status Write(std::span<const std::byte> bytes);
  // Flushes and gives the SHA-256 of the whole file. InvalidArgument when tensors are missing.
  StatusOr<std::string> Finish();
  uint64_t file_bytes() const { return file_bytes_; }

 private:
  SafetensorsWriter(std::string path, std::FILE* file);
  Status Put(std::span<const std::byte> bytes);

  const std::string path_;
  std::FILE* file_;
  Sha256 hash_;
  uint64_t remaining_ = 0;
  uint64_t file_bytes_ = 0;
};

}  // namespace choir
