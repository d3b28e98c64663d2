// Host values (sequences, slots, tiles) on their way to a kernel: packed into the stream's
// workspace, one call's at a time. The workspace is free again for the next call: copies and
// kernels of one stream run in order. Values that the device has already (Staged) stay where they
// are: only such calls may become part of a graph, which would copy the same bytes for ever.
#pragma once

#include <cstddef>
#include <span>

#include "common/base/check.h"
#include "kernels/ops/staged.h"

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
    T* at = Room<T>(static_cast<int64_t>(values.size()));
    if (!values.empty()) run_.Copy(at, values.data(), values.size_bytes());
    return at;
  }
  // Where the device has them, or has them now.
  template <class T>
  const T* operator()(const Staged<T>& values) {
    return values.device != nullptr ? values.device : (*this)(values.values());
  }
  // Room for what a kernel writes and later ones of the same call read.
  template <class T>
  T* Room(int64_t count) {
    const size_t bytes = UploadBytes(static_cast<size_t>(count) * sizeof(T));
    CHOIR_CHECK(bytes <= left_.size());
    std::byte* at = left_.data();
    left_ = left_.subspan(bytes);
    return reinterpret_cast<T*>(at);
  }
  size_t left() const { return left_.size(); }

 private:
  const Runner& run_;
  std::span<std::byte> left_;
};

}  // namespace choir::cuda
