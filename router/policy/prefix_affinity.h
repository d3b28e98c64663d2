// The rank that has least left to do: its load, and what of the prompt it has not computed before.
// What ranks have computed is what they were given, as far as the index remembers (PrefixIndex);
// what they really had cached comes back with each first token and is compared. On a rank whose
// answers agreed the index is exact; it is degraded until kAgreeing of them did in a row: after its
// start, an epoch, what the index forgot, or what the rank did.
//
// A rank with imbalance_tokens_max more work than the idlest one is not chosen for its prefix.
#pragma once

#include <unordered_map>
#include <vector>

#include "router/policy/policy.h"
#include "router/policy/prefix_index.h"

namespace choir {

class PrefixAffinityPolicy final : public Policy {
 public:
  static constexpr uint32_t kAgreeing = 8;

  PrefixAffinityPolicy(uint32_t index_blocks_max, uint64_t imbalance_tokens_max)
      : index_(index_blocks_max), imbalance_tokens_max_(imbalance_tokens_max) {}
  const char* name() const override { return "prefix_affinity"; }
  bool wants_prefix() const override { return true; }

  uint32_t OverlapOf(const WorkerView& rank, const PlaceQuery& query) const override;
  void OnPlaced(const PlaceQuery& query, const Pick& pick, const WorkerView& rank) override;
  void OnFirstToken(const WorkerView& rank, uint32_t predicted_tokens,
                    uint32_t cached_tokens) override;
  std::optional<PrefixStats> prefix_stats() const override;
  bool IsExact(const WorkerView& rank) const override;

 private:
  // A process: its cache outlives epochs and connections, not the process.
  struct Life {
    uint64_t incarnation = 0;
    uint64_t epoch = 0;
    PrefixIndex::Holder holder = 0;
    uint32_t block_tokens = 0;
    uint32_t agreeing = 0;   // first tokens in a row,
    uint64_t forgotten = 0;  // since the index had forgotten so many marks
  };

  Liked Like(const Candidates& candidates) const override;
  const Life* LifeOf(const WorkerView& rank) const;
  const WorkerView* RankOf(PrefixIndex::Holder holder, const RankTable& ranks) const;

  PrefixIndex index_;
  const uint64_t imbalance_tokens_max_;
  std::unordered_map<WorkerIndex, Life> lives_;
  std::vector<WorkerIndex> holders_ = {WorkerIndex()};  // by number; the first stands for none
  PrefixStats stats_;
};

}  // namespace choir
