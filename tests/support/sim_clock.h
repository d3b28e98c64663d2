// A clock that moves when it is told to.
#pragma once

#include "common/base/clock.h"

namespace choir {

class SimClock final : public Clock {
 public:
  MonoTime Now() const override { return now_; }
  WallTime Wall() const override { return WallTime(now_.time_since_epoch()); }
  void Advance(Duration d) { now_ += d; }

 private:
  MonoTime now_{std::chrono::hours(1)};
};

}  // namespace choir
