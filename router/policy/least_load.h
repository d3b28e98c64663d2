// The rank with the least work in flight. Exact, and best for one router; several routers that see
// the same reports all take the same rank until the next ones.
#pragma once

#include "router/policy/policy.h"

namespace choir {

class LeastLoadPolicy final : public Policy {
 public:
  const char* name() const override { return "least_load"; }

 private:
  Liked Like(const Candidates& candidates) const override {
    return {candidates.LeastLoaded(), RouteReason::kLeastLoad};
  }
};

}  // namespace choir
