// Which rank runs a sequence. A policy is a pure function of the table of ranks, the query and what
// the policy was told before (OnPlaced, OnFirstToken); the same calls give the same picks. It only
// says which rank it likes best: who may be picked at all, and that the choices of one prompt keep
// together, is the same for all (policy.cc). One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/base/types.h"
#include "router/membership/rank_table.h"
#include "router/policy/prompt_prefix.h"

namespace choir {

// A rank at one moment of its life: after a reconnect or in a new epoch it is another placement.
struct Placement {
  WorkerIndex worker;
  uint64_t connection = 0;
  uint64_t epoch = 0;
  std::string numerics_id;
  // Of the sequence that was placed there: its part in the rank's load until its first token, and
  // what of it the rank is thought to have cached.
  uint32_t counted_tokens = 0;
  uint32_t predicted_tokens = 0;

  bool SameLife(const Placement& other) const {
    return worker == other.worker && connection == other.connection && epoch == other.epoch;
  }
  bool IsOf(const WorkerView& view) const {
    return worker == view.index && connection == view.connection && epoch == view.epoch;
  }
};

// Another choice of the same prompt, which its rank computes once for all of them.
struct Sibling {
  Placement placement;
  bool waits = false;  // for its first token: its counted_tokens are still in the rank's load
};

struct PlaceQuery {
  uint32_t num_tokens = 0;        // to compute before the first new one
  std::string numerics_id;        // required when not empty
  std::vector<Placement> passed;  // those that just failed this sequence
  std::vector<Sibling> siblings;
  const PromptPrefix* prefix = nullptr;  // null: not known, or not wanted
  uint64_t session = 0;                  // whose request it is; 0: nobody's in particular
};

// What a rank would cost the sequence, in units of LoadOf: the work before it there and its own.
struct Score {
  uint64_t load = 0;
  uint64_t to_compute = 0;
  uint32_t overlap_tokens = 0;  // of its prompt, cached there

  uint64_t cost() const { return load + to_compute; }
};

enum class RouteReason { kOnlyOne, kLeastLoad, kSibling, kPowerOfTwo, kPrefix, kStickyUser };
inline constexpr RouteReason kRouteReasons[] = {RouteReason::kOnlyOne, RouteReason::kLeastLoad,
                                                RouteReason::kSibling, RouteReason::kPowerOfTwo,
                                                RouteReason::kPrefix,  RouteReason::kStickyUser};
const char* RouteReasonName(RouteReason reason);

struct Pick {
  Placement placement;
  RouteReason reason = RouteReason::kLeastLoad;
};

// How well it is known what ranks have cached.
struct PrefixStats {
  uint64_t index_blocks = 0;
  uint64_t index_blocks_max = 0;
  uint64_t forgotten_blocks = 0;  // for want of room
  // Of all sequences that came to their first token:
  uint64_t predictions = 0;
  uint64_t agreed = 0;
  uint64_t predicted_tokens = 0;
  uint64_t cached_tokens = 0;      // in truth
  uint64_t missing_tokens = 0;     // predicted, and not cached
  uint64_t unforeseen_tokens = 0;  // cached, and not predicted
};

// The ranks that a query allows.
class Candidates {
 public:
  Candidates(const RankTable& ranks, const PlaceQuery& query);

  bool Allows(const WorkerView& rank) const;
  size_t size() const { return size_; }
  // Null: none. Looks at no more ranks than the query excludes, and one.
  const WorkerView* LeastLoaded() const;
  const RankTable& ranks() const { return ranks_; }
  const PlaceQuery& query() const { return query_; }

 private:
  const RankTable& ranks_;
  const PlaceQuery& query_;
  size_t size_ = 0;
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual const char* name() const = 0;  // as the configuration has it

  // Nullopt when no rank is allowed.
  std::optional<Pick> Choose(const RankTable& ranks, const PlaceQuery& query) const;
  // Of any rank of the table.
  Score ScoreOf(const WorkerView& rank, const PlaceQuery& query) const;

  // Whether queries should carry the prompt's prefix.
  virtual bool wants_prefix() const { return false; }
  // How much of the prompt the rank is thought to have cached.
  virtual uint32_t OverlapOf(const WorkerView& /*rank*/, const PlaceQuery& /*query*/) const {
    return 0;
  }
  // The query was placed on this rank, as Choose said.
  virtual void OnPlaced(const PlaceQuery& /*query*/, const Pick& /*pick*/,
                        const WorkerView& /*rank*/) {}
  // A sequence that was placed with a prefix came to its first token; the rank says how much of it
  // was cached.
  virtual void OnFirstToken(const WorkerView& /*rank*/, uint32_t /*predicted_tokens*/,
                            uint32_t /*cached_tokens*/) {}
  virtual std::optional<PrefixStats> prefix_stats() const { return std::nullopt; }
  // What the rank had cached was lately as predicted.
  virtual bool IsExact(const WorkerView& /*rank*/) const { return false; }

 protected:
  struct Liked {
    const WorkerView* rank = nullptr;
    RouteReason reason = RouteReason::kLeastLoad;
  };
  // REQUIRES: at least two candidates.
  virtual Liked Like(const Candidates& candidates) const = 0;
};

struct PolicySettings {
  std::string name = "least_load";
  uint64_t seed = 0;  // of what a policy draws
  int64_t index_blocks_max = 1 << 20;
  int64_t imbalance_tokens_max = int64_t{64 * kDecodeWeight};
  bool operator==(const PolicySettings&) const = default;
};

// REQUIRES: a name that policy_options.h allows.
std::unique_ptr<Policy> MakePolicy(const PolicySettings& settings);

}  // namespace choir
