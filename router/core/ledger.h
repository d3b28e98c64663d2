// Both sides of what must balance: everything that came in is running or ended in exactly one way.
#pragma once

#include <cstdint>

namespace choir {

struct RequestLedger {
  uint64_t admitted = 0;  // reached the router
  uint64_t running = 0;
  uint64_t finished = 0;
  uint64_t refused = 0;  // before dispatch
  uint64_t aborted = 0;  // after dispatch: client gone, deadline, failure

  int64_t Difference() const {
    return static_cast<int64_t>(admitted) -
           static_cast<int64_t>(running + finished + refused + aborted);
  }
};

struct SequenceLedger {
  uint64_t submitted = 0;
  uint64_t ended = 0;      // by the worker, refusals included
  uint64_t cancelled = 0;  // acknowledged
  uint64_t lost = 0;       // with a stream or an epoch

  int64_t Difference(uint64_t live) const {
    return static_cast<int64_t>(submitted) - static_cast<int64_t>(live + ended + cancelled + lost);
  }
};

}  // namespace choir
