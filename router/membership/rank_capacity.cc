#include <algorithm>

#include "router/membership/snapshot.h"

namespace choir {

RankCapacity& RankCapacity::operator+=(const RankCapacity& other) {
  ranks += other.ranks;
  silent += other.silent;
  seats += other.seats;
  free += other.free;
  over += other.over;
  kv_free += other.kv_free;
  kv_silent += other.kv_silent;
  return *this;
}

RankCapacity& RankCapacity::operator-=(const RankCapacity& other) {
  ranks -= other.ranks;
  silent -= other.silent;
  seats -= other.seats;
  free -= other.free;
  over -= other.over;
  kv_free -= other.kv_free;
  kv_silent -= other.kv_silent;
  return *this;
}

// Its report lags behind what it was given, and knows of what others gave it: the larger counts.
RankCapacity CapacityOf(const WorkerView& worker) {
  const WorkerIdentity& identity = *worker.identity;
  const WorkerLoad& reported = worker.reported;
  RankCapacity out{.ranks = 1};
  const uint64_t there =
      std::max<uint64_t>(worker.assigned_sequences, uint64_t{reported.running} + reported.waiting);
  const uint64_t seats = identity.running_max;
  out.silent = seats == 0 ? 1 : 0;
  out.seats = seats;
  out.free = seats - std::min(seats, there);
  out.over = seats == 0 ? 0 : there - std::min(seats, there);
  out.kv_silent = identity.kv_tokens_max == 0 ? 1 : 0;
  const uint64_t used = reported.kv_tokens_used + worker.assigned_tokens;
  out.kv_free = identity.kv_tokens_max - std::min(identity.kv_tokens_max, used);
  return out;
}

}  // namespace choir
