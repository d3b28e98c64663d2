// A user's or session's requests on one rank, as long as that has not imbalance_tokens_max more
// work than the idlest: rendezvous hashing (D. Thaler, C. Ravishankar, 1998) with bounded loads.
// When a rank goes only its own users move, each to another rank; when one comes it takes its share
// and nobody else moves; every router finds the same rank. Looks at all ranks, at a nanosecond or
// two each. Who gives neither user nor session gets the least loaded rank.
#pragma once

#include <string_view>

#include "router/policy/policy.h"

namespace choir {

// Of a tenant's user or session; never 0.
uint64_t SessionHash(std::string_view tenant, std::string_view session);

class StickyUserPolicy final : public Policy {
 public:
  explicit StickyUserPolicy(uint64_t imbalance_tokens_max)
      : imbalance_tokens_max_(imbalance_tokens_max) {}
  const char* name() const override { return "sticky_user"; }

 private:
  Liked Like(const Candidates& candidates) const override;

  const uint64_t imbalance_tokens_max_;
};

}  // namespace choir
