// SplitMix64 (Steele, Lea and Flood 2014): integers only, so that any program on any machine draws
// the same numbers. Not for anything that must be secret.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace choir {

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Fisher-Yates over 0..n-1. REQUIRES: n < 2^31.
  std::vector<int32_t> Permutation(int32_t n) {
    std::vector<int32_t> p(static_cast<size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    for (int32_t i = n - 1; i > 0; --i) {
      const uint64_t j = ((Next() >> 32) * static_cast<uint64_t>(i + 1)) >> 32;
      std::swap(p[static_cast<size_t>(i)], p[j]);
    }
    return p;
  }

  double Sign() { return (Next() >> 63) != 0 ? 1.0 : -1.0; }

 private:
  uint64_t state_;
};

}  // namespace choir
