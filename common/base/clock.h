// The only way to read time. Real code gets `Clock::Real()`; tests and simulations get a SimClock
// (tests/support/sim_clock.h) that moves when told. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>

namespace choir {

using Duration = std::chrono::nanoseconds;
using MonoTime = std::chrono::time_point<std::chrono::steady_clock, Duration>;  // for intervals
using WallTime =
    std::chrono::time_point<std::chrono::system_clock, Duration>;  // for people and logs

class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonoTime Now() const = 0;
  virtual WallTime Wall() const = 0;

  static const Clock& Real();
};

inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace choir
