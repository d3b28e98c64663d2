// The one source of chance of a simulation: the same seed, the same run.
#pragma once

#include <cstdint>
#include <random>

#include "common/base/clock.h"

namespace choir::sim {

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : engine_(seed) {}

  uint64_t Bits() { return engine_(); }
  // In [low, high].
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(double share) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < share; }
  Duration Micros(int64_t low, int64_t high) {
    return std::chrono::microseconds(Between(low, high));
  }
  Duration Millis(int64_t low, int64_t high) {
    return std::chrono::milliseconds(Between(low, high));
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace choir::sim
