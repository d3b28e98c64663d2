#include "router/policy/power_of_two.h"

namespace choir {
namespace {

// Draws of one rank: nearly always the first is allowed. Where most ranks are not, the least loaded
// one takes its place, so a decision is bounded whatever a query excludes.
constexpr int kAttempts = 16;

uint64_t Below(uint64_t random, uint64_t n) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * n) >> 64);
}

}  // namespace

const WorkerView* PowerOfTwoPolicy::Draw(const Candidates& candidates, uint64_t* draw,
                                         const WorkerView* other) const {
  const RankTable& ranks = candidates.ranks();
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const uint64_t random = MixBits(seed_ ^ MixBits((*draw)++));
    const WorkerView& rank = ranks.at(Below(random, ranks.size()));
    if (&rank != other && candidates.Allows(rank)) return &rank;
  }
  return candidates.LeastLoaded();
}

Policy::Liked PowerOfTwoPolicy::Like(const Candidates& candidates) const {
  uint64_t draw = decisions_ * 2 * kAttempts;
  const WorkerView* first = Draw(candidates, &draw, nullptr);
  const WorkerView* second = Draw(candidates, &draw, first);
  const bool second_is_less = LoadOf(*second) < LoadOf(*first);
  return {second_is_less ? second : first, RouteReason::kPowerOfTwo};
}

}  // namespace choir
