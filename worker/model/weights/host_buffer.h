// Owned, 64-byte aligned, zeroed host memory that costs nothing until it is touched.
#pragma once

#include <cstddef>
#include <memory>

#include "common/base/status.h"

namespace choir {

class HostBuffer {
 public:
  HostBuffer() = default;
  static StatusOr<HostBuffer> Make(size_t bytes);
  HostBuffer(HostBuffer&& other) noexcept { *this = std::move(other); }
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  ~HostBuffer();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace choir
