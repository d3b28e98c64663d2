// Host values (sequences, slots, tiles) on their way to a kernel: packed into the stream's
// workspace, one call's at a time. The workspace is free again for the next call: copies and
// kernels of one stream run in order.
#pragma once

#include <cstddef>
#include <span>

#include "common/base/check.h"

namespace choir::cuda {

inline constexpr size_t kUploadAlign = 256;

constexpr size_t UploadBytes(size_t bytes) {
  return (bytes + kUploadAlign - 1) / kUploadAlign * kUploadAlign;
}

template <class Runner>
class Upload {
 public:
  explicit Upload(const Runner& run) : run_(run), left_(run.workspace()) {}

  // REQUIRES: fits what is left of the workspace (KernelSet::WorkspaceBytes).
  template <class T>
  const T* operator()(std::span<const T> values) {
    const size_t bytes = UploadBytes(values.size_bytes());
    CHOIR_CHECK(bytes <= left_.size());
    std::byte* at = left_.data();
    left_ = left_.subspan(bytes);
    if (!values.empty()) run_.Copy(at, values.data(), values.size_bytes());
    return reinterpret_cast<const T*>(at);
  }
  size_t left() const { return left_.size(); }

 private:
  const Runner& run_;
  std::span<std::byte> left_;
};

}  // namespace choir::cuda
