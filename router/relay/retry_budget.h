// How many requests may be run again before their first token: a share of the requests of the last
// `window`, and always `min` of them. A fleet that breaks whatever it is given is not given
// everything many times over. Requests under way are not counted: they go on in any case. Pure:
// time is an argument. One thread.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/clock.h"

namespace choir {

struct RetryLimits {
  double ratio = 0.2;   // retries to requests, 0..1
  uint64_t min = 1000;  // retries in a window that need no requests
  Duration window = std::chrono::seconds(10);
};

class RetryBudget {
 public:
  explicit RetryBudget(RetryLimits limits) : limits_(limits) {}

  void OnRequest(MonoTime now);
  // Takes one retry; false: none is left.
  bool TryRetry(MonoTime now);

 private:
  static constexpr int kSlots = 10;
  struct Slot {
    int64_t number = -1;  // of the slots since the clock began
    uint64_t requests = 0;
    uint64_t retries = 0;
  };
  Slot& At(MonoTime now);

  RetryLimits limits_;
  std::array<Slot, kSlots> slots_;
};

}  // namespace choir
