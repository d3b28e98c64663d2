// Virtual time: events in the order of their time, then of their scheduling. One thread; nothing
// waits.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "common/base/clock.h"

namespace choir::sim {

class SimTime final : public Clock {
 public:
  using Event = std::function<void()>;

  MonoTime Now() const override { return now_; }
  WallTime Wall() const override { return WallTime(now_.time_since_epoch()); }

  void After(Duration delay, Event event) { At(now_ + delay, std::move(event)); }
  void At(MonoTime when, Event event) {
    events_.push({std::max(when, now_), next_++, std::move(event)});
  }

  // The next event, unless it lies beyond `end`. False: nothing is left to do until then.
  bool RunOne(MonoTime end) {
    if (events_.empty() || events_.top().when > end) return false;
    Item item = std::move(const_cast<Item&>(events_.top()));
    events_.pop();
    now_ = item.when;
    item.event();
    return true;
  }
  size_t num_events() const { return events_.size(); }

 private:
  struct Item {
    MonoTime when;
    uint64_t order = 0;
    Event event;
    bool operator<(const Item& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };

  MonoTime now_{std::chrono::hours(1)};
  uint64_t next_ = 0;
  std::priority_queue<Item> events_;
};

}  // namespace choir::sim
