// Of two ranks drawn at random the one with less work (M. Mitzenmacher, "The Power of Two Choices
// in Randomized Load Balancing", 1996). Nearly as even as the least load, and routers that know of
// each other only by the workers' late reports do not all choose the same rank.
#pragma once

#include "router/policy/policy.h"

namespace choir {

class PowerOfTwoPolicy final : public Policy {
 public:
  explicit PowerOfTwoPolicy(uint64_t seed) : seed_(seed) {}
  const char* name() const override { return "power_of_two"; }
  void OnPlaced(const PlaceQuery& /*query*/, const Pick& /*pick*/,
                const WorkerView& /*rank*/) override {
    ++decisions_;
  }

 private:
  Liked Like(const Candidates& candidates) const override;
  const WorkerView* Draw(const Candidates& candidates, uint64_t* draw,
                         const WorkerView* other) const;

  const uint64_t seed_;
  // Draws are a function of the seed and of how many decisions there were, so looking at one
  // (Choose without OnPlaced) does not change the next.
  uint64_t decisions_ = 0;
};

}  // namespace choir
