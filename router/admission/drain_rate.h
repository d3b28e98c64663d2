// How quickly a queue gets shorter, and how long what leaves it runs: measured, never assumed.
// Pure; time is an argument and does not go back. One thread.
#pragma once

#include <cstdint>
#include <optional>

#include "common/base/clock.h"

namespace choir {

// Work that started while others waited, a second of such time. What happens without a queue says
// nothing about one: then a place is free at once.
class DrainRate {
 public:
  static constexpr Duration kMemory = std::chrono::seconds(60);      // of waiting; older fades
  static constexpr Duration kForgetAfter = std::chrono::minutes(2);  // without anybody waiting
  static constexpr uint64_t kStartsMin = 4;  // until so many were seen nothing is known

  // From now on somebody waits, or nobody does.
  void SetWaiting(bool waiting, MonoTime now);
  // One starts; without anybody waiting that says nothing.
  void OnStart(uint64_t work, MonoTime now);
  // Seconds until so much work has started and one more has; nullopt: not known.
  std::optional<double> SecondsFor(double work, MonoTime now) const;

 private:
  struct Sums {
    double seconds = 0, work = 0, starts = 0;  // faded
    uint64_t seen = 0;                         // starts
  };
  Sums At(MonoTime now) const;

  Sums sums_;  // as of since_
  MonoTime since_{};
  bool waiting_ = false;
};

// What requests that ended well took.
class RunTimes {
 public:
  // `tokens` a choice. Fades by a sixteenth with each.
  void OnEnd(double seconds, double tokens);
  // Of a request of up to `tokens_max` a choice, as those before it ran; nullopt: not known.
  std::optional<double> SecondsFor(double tokens_max) const;

 private:
  uint64_t seen_ = 0;
  double weight_ = 0, seconds_ = 0, tokens_ = 0;  // faded
};

}  // namespace choir
