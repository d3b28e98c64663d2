// Which rank runs a sequence: a pure function of an immutable membership snapshot. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/base/types.h"
#include "router/membership/snapshot.h"

namespace choir {

// A rank at one moment of its life: after a reconnect or in a new epoch it is another placement.
struct Placement {
  WorkerIndex worker;
  uint64_t connection = 0;
  uint64_t epoch = 0;
  std::string numerics_id;

  bool SameLife(const Placement& other) const {
    return worker == other.worker && connection == other.connection && epoch == other.epoch;
  }
};

struct PlaceQuery {
  uint32_t num_tokens = 0;        // to compute before the first new one
  std::string numerics_id;        // required when not empty
  std::vector<Placement> passed;  // those that just failed this sequence
};

enum class RouteReason { kOnlyOne, kLeastLoad };
const char* RouteReasonName(RouteReason reason);

struct Pick {
  Placement placement;
  RouteReason reason = RouteReason::kLeastLoad;
};

// The ready rank with the least work in flight (ties: the smaller worker id), or nullopt when none
// fits.
std::optional<Pick> PickWorker(const Snapshot& snapshot, const PlaceQuery& query);

// Work in flight in units of one prompt token: what a router-side estimate and the worker's own
// report agree to be the larger. A running sequence weighs as much as kDecodeWeight prompt tokens.
uint64_t LoadOf(const WorkerView& worker);
inline constexpr uint64_t kDecodeWeight = 256;

}  // namespace choir
