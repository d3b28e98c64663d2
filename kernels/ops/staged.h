// Small values that a step decides (slots, sequences, offsets), as an op takes them: in the host's
// memory for those that compute there, and the same values in a device's memory for those of a GPU.
// Does not own.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

#include "common/base/check.h"

namespace choir {

template <class T>
struct Staged {
  Staged() = default;
  Staged(const T* values, size_t count, const T* there = nullptr)
      : host(values), device(there), count(count) {}
  // What only the host has: a GPU's op brings it to the device by itself, one call's at a time.
  template <class Range>
  requires(std::convertible_to<const Range&, std::span<const T>> && !std::same_as<Range, Staged<T>>)
      Staged(const Range& values)  // NOLINT: the plain form of every op's values
      : Staged(std::span<const T>(values).data(), std::span<const T>(values).size()) {}

  size_t size() const { return count; }
  bool empty() const { return count == 0; }
  std::span<const T> values() const {
    CHOIR_CHECK(host != nullptr || count == 0);
    return {host, count};
  }
  operator std::span<const T>() const { return values(); }  // NOLINT: what CPU kernels read
  const T& operator[](size_t i) const { return host[i]; }
  const T& front() const { return values().front(); }
  const T& back() const { return values().back(); }
  auto begin() const { return values().begin(); }
  auto end() const { return values().end(); }

  const T* host = nullptr;    // null: only the device knows them
  const T* device = nullptr;  // null: only the host does
  size_t count = 0;
};

}  // namespace choir
