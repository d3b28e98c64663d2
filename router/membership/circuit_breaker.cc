#include "router/membership/circuit_breaker.h"

namespace choir {

const char* BreakerStateName(BreakerState state) {
  switch (state) {
    case BreakerState::kClosed:
      return "closed";
    case BreakerState::kOpen:
      return "open";
    case BreakerState::kHalfOpen:
      return "half_open";
  }
  return "?";
}

void CircuitBreaker::OnFirstToken() {
  if (state_ != BreakerState::kHalfOpen) return;
  state_ = BreakerState::kClosed;
  probing_ = false;
  failures_.clear();
}

void CircuitBreaker::OnFailure(MonoTime now) {
  if (state_ == BreakerState::kHalfOpen) return Open(now);
  if (state_ == BreakerState::kOpen) return;
  if (!failures_.empty() && now - failures_.back() < kOneEvent) return;
  while (!failures_.empty() && now - failures_.front() >= limits_.window) failures_.pop_front();
  failures_.push_back(now);
  if (failures_.size() >= limits_.failures) Open(now);
}

void CircuitBreaker::Open(MonoTime now) {
  state_ = BreakerState::kOpen;
  probing_ = false;
  failures_.clear();
  half_open_at_ = now + limits_.open_for;
}

bool CircuitBreaker::OnTime(MonoTime now) {
  if (state_ != BreakerState::kOpen || now < half_open_at_) return false;
  state_ = BreakerState::kHalfOpen;
  return true;
}

MonoTime CircuitBreaker::NextTimer() const {
  return state_ == BreakerState::kOpen ? half_open_at_ : MonoTime::max();
}

}  // namespace choir
