// Whether a worker is given work, judged by what became of the work that it was given. Closed:
// yes. After `failures` within `window`: open, nothing for `open_for`. Then half open: one sequence
// is tried; its first token closes the breaker, its failure opens it again. Pure: time is an
// argument. One thread.
#pragma once

#include <cstdint>
#include <deque>

#include "common/base/clock.h"

namespace choir {

enum class BreakerState { kClosed, kOpen, kHalfOpen };
const char* BreakerStateName(BreakerState state);

struct BreakerLimits {
  uint32_t failures = 5;  // within `window`; at least 1
  Duration window = std::chrono::seconds(30);
  Duration open_for = std::chrono::seconds(5);
};

class CircuitBreaker {
 public:
  // A loss takes many sequences at once: what befalls within this time is one failure.
  static constexpr Duration kOneEvent = std::chrono::seconds(1);

  explicit CircuitBreaker(BreakerLimits limits) : limits_(limits) {}

  void OnPlaced() { probing_ = state_ == BreakerState::kHalfOpen; }
  void OnFirstToken();
  // A sequence ended, and not by a failure: if it was the one that was tried, another may be.
  void OnGone() { probing_ = false; }
  // Work that it had is lost, or was given back.
  void OnFailure(MonoTime now);
  // So bad that once is enough: opens.
  void Open(MonoTime now);
  // True: it became half open.
  bool OnTime(MonoTime now);

  BreakerState state() const { return state_; }
  bool TakesWork() const {
    return state_ == BreakerState::kClosed || (state_ == BreakerState::kHalfOpen && !probing_);
  }
  // When OnTime has something to do; MonoTime::max(): never.
  MonoTime NextTimer() const;

 private:
  BreakerLimits limits_;
  BreakerState state_ = BreakerState::kClosed;
  bool probing_ = false;
  std::deque<MonoTime> failures_;  // within the window, at most limits_.failures
  MonoTime half_open_at_;          // while open
};

}  // namespace choir
