#include "router/policy/prefix_affinity.h"

#include <algorithm>
#include <array>

namespace choir {
namespace {

// A rank computes at least the last token, whatever it has cached.
std::span<const PrefixMark> UsableMarks(const PlaceQuery& query) {
  if (query.prefix == nullptr) return {};
  const std::vector<PrefixMark>& marks = query.prefix->marks;
  const auto end = std::partition_point(marks.begin(), marks.end(), [&](const PrefixMark& mark) {
    return mark.num_tokens < query.num_tokens;
  });
  return {marks.begin(), end};
}

// Holders that were looked at, in a walk that meets the same ones at every mark.
class Seen {
 public:
  bool Add(PrefixIndex::Holder holder) {
    const auto end = holders_.begin() + static_cast<ptrdiff_t>(num_);
    if (std::find(holders_.begin(), end, holder) != end) return false;
    if (num_ < holders_.size()) holders_[num_++] = holder;
    return true;
  }

 private:
  std::array<PrefixIndex::Holder, 64> holders_;
  size_t num_ = 0;
};

}  // namespace

const PrefixAffinityPolicy::Life* PrefixAffinityPolicy::LifeOf(const WorkerView& rank) const {
  const auto it = lives_.find(rank.index);
  return it != lives_.end() && it->second.incarnation == rank.identity->incarnation ? &it->second
                                                                                    : nullptr;
}

const WorkerView* PrefixAffinityPolicy::RankOf(PrefixIndex::Holder holder,
                                               const RankTable& ranks) const {
  const WorkerView* rank = ranks.Find(holders_[holder]);
  const Life* life = rank == nullptr ? nullptr : LifeOf(*rank);
  return life != nullptr && life->holder == holder ? rank : nullptr;
}

uint32_t PrefixAffinityPolicy::OverlapOf(const WorkerView& rank, const PlaceQuery& query) const {
  const Life* life = LifeOf(rank);
  if (life == nullptr || query.prefix == nullptr) return 0;
  if (life->block_tokens != query.prefix->block_tokens) return 0;
  const auto marks = UsableMarks(query);
  for (size_t i = index_.NumKnown(marks); i-- > 0;) {
    const auto holders = index_.HoldersOf(marks[i]);
    if (std::find(holders.begin(), holders.end(), life->holder) != holders.end()) {
      return marks[i].num_tokens;
    }
  }
  return 0;
}

Policy::Liked PrefixAffinityPolicy::Like(const Candidates& candidates) const {
  const RankTable& ranks = candidates.ranks();
  const uint32_t num_tokens = candidates.query().num_tokens;
  Liked liked{candidates.LeastLoaded(), RouteReason::kLeastLoad};
  uint64_t least_cost = LoadOf(*liked.rank) + num_tokens;
  const auto marks = UsableMarks(candidates.query());
  Seen seen;
  for (size_t i = index_.NumKnown(marks); i-- > 0;) {
    const uint64_t to_compute = num_tokens - marks[i].num_tokens;
    // Even the idlest rank would cost more, had it no more than this.
    if (ranks.least_load() + to_compute >= least_cost) break;
    for (const PrefixIndex::Holder holder : index_.HoldersOf(marks[i])) {
      if (!seen.Add(holder)) continue;
      const WorkerView* rank = RankOf(holder, ranks);
      if (rank == nullptr || !candidates.Allows(*rank)) continue;
      const uint64_t load = LoadOf(*rank);
      if (load > ranks.least_load() + imbalance_tokens_max_) continue;
      if (load + to_compute >= least_cost) continue;
      least_cost = load + to_compute;
      liked = {rank, RouteReason::kPrefix};
    }
  }
  return liked;
}

void PrefixAffinityPolicy::OnPlaced(const PlaceQuery& query, const Pick& /*pick*/,
                                    const WorkerView& rank) {
  const WorkerIdentity& identity = *rank.identity;
  Life& life = lives_[rank.index];
  if (life.holder == 0 || life.incarnation != identity.incarnation) {
    life = {.incarnation = identity.incarnation,
            .epoch = rank.epoch,
            .holder = static_cast<PrefixIndex::Holder>(holders_.size()),
            .block_tokens = identity.kv_block_tokens};
    holders_.push_back(rank.index);
  } else if (life.epoch != rank.epoch) {
    life.epoch = rank.epoch;
    life.agreeing = 0;
  }
  if (query.prefix == nullptr || query.prefix->block_tokens != life.block_tokens) return;
  index_.Insert(query.prefix->marks, life.holder);
}

void PrefixAffinityPolicy::OnFirstToken(const WorkerView& rank, uint32_t predicted_tokens,
                                        uint32_t cached_tokens) {
  const auto it = lives_.find(rank.index);
  if (it == lives_.end() || it->second.incarnation != rank.identity->incarnation) return;
  Life& life = it->second;
  if (life.block_tokens == 0) return;
  ++stats_.predictions;
  stats_.predicted_tokens += predicted_tokens;
  stats_.cached_tokens += cached_tokens;
  if (cached_tokens < predicted_tokens) stats_.missing_tokens += predicted_tokens - cached_tokens;
  // Between two marks nothing is known.
  const uint32_t before = predicted_tokens + TokensToNextMark(predicted_tokens, life.block_tokens);
  const bool agrees = cached_tokens >= predicted_tokens && cached_tokens < before;
  if (cached_tokens >= before) stats_.unforeseen_tokens += cached_tokens - predicted_tokens;
  stats_.agreed += agrees;
  if (life.forgotten != index_.num_forgotten()) life.agreeing = 0;
  life.forgotten = index_.num_forgotten();
  life.agreeing = agrees ? std::min(life.agreeing + 1, kAgreeing) : 0;
}

std::optional<PrefixStats> PrefixAffinityPolicy::prefix_stats() const {
  PrefixStats stats = stats_;
  stats.index_blocks = index_.size();
  stats.index_blocks_max = index_.marks_max();
  stats.forgotten_blocks = index_.num_forgotten();
  return stats;
}

bool PrefixAffinityPolicy::IsExact(const WorkerView& rank) const {
  const Life* life = LifeOf(rank);
  return life != nullptr && life->epoch == rank.epoch && life->agreeing == kAgreeing &&
         life->forgotten == index_.num_forgotten();
}

}  // namespace choir
