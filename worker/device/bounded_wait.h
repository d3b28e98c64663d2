// Waits for a card that have an end. A kernel that never ends cannot be cancelled, and whatever has
// to do with the card waits for it: freeing its memory, and the end of the process as well, if its
// destructors run. So a wait that takes too long says so in the log and ends the process at once
// with 1; whoever started it starts it again.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "kernels/cuda/device_table.h"

namespace choir {

// Of one wait: for one step, or for one copy. --device-timeout.
struct WaitBound {
  Duration limit = std::chrono::seconds(60);
  const Clock* clock = &Clock::Real();
};

// Asked again and again during a wait; after an error not any more.
struct WaitGuard {
  const std::function<Status()>* look = nullptr;  // null: nobody
  Status said = {};
};

// Thread: that of the stream that it waits for.
class BoundedWait {
 public:
  // `name` is the card's. `table` outlives this.
  BoundedWait(const cuda::DeviceTable& table, std::string name, const WaitBound& bound)
      : table_(table), name_(std::move(name)), bound_(bound) {}

  // Until all that is in `stream` is done, or the card fails: then why. `event` is for this wait.
  const char* For(void* stream, void* event, WaitGuard* guard = nullptr) const;
  const std::string& name() const { return name_; }

 private:
  const char* Poll(void* event, WaitGuard* guard) const;
  [[noreturn]] void EndProcess() const;

  const cuda::DeviceTable& table_;
  const std::string name_;
  const WaitBound bound_;
};

}  // namespace choir
