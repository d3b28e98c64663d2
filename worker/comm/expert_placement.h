// Which ranks hold which experts of one MoE layer. An expert has a copy on one rank, or on several:
// then each of them computes a part of its rows. An expert's output for a row is the same whichever
// copy computes it, so no bit of an answer depends on a placement. An immutable value; all ranks of
// an epoch compute a layer with equal ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace choir {

class ExpertPlacement {
 public:
  // One copy each, in ranges: the first (experts % ranks) ranks hold one more.
  ExpertPlacement(int32_t num_experts, int32_t num_ranks);
  // experts_of: by rank, each once, in the order of its slots. REQUIRES: every expert is somewhere.
  ExpertPlacement(int32_t num_experts, std::vector<std::vector<int32_t>> experts_of);

  int32_t num_experts() const { return static_cast<int32_t>(begins_.size()) - 1; }
  int32_t num_ranks() const { return static_cast<int32_t>(experts_of_.size()); }
  int64_t num_copies() const { return static_cast<int64_t>(ranks_.size()); }
  bool HasCopies() const { return num_copies() > num_experts(); }  // beyond the first of each
  const std::vector<int32_t>& ExpertsOf(int32_t rank) const {
    return experts_of_[static_cast<size_t>(rank)];
  }
  std::span<const int32_t> RanksOf(int32_t expert) const {  // ascending, at least one
    const auto e = static_cast<size_t>(expert);
    return std::span(ranks_).subspan(begins_[e], begins_[e + 1] - begins_[e]);
  }
  // Where the expert is in ExpertsOf(rank); -1: it is not there.
  int32_t SlotOf(int32_t rank, int32_t expert) const;

  bool operator==(const ExpertPlacement& other) const { return experts_of_ == other.experts_of_; }

 private:
  void FindRanks(int32_t num_experts);

  std::vector<std::vector<int32_t>> experts_of_;  // by rank
  std::vector<size_t> begins_;                    // [experts + 1]: of each expert's in the next two
  std::vector<int32_t> ranks_, slots_;
};

// Experts of a layer that a rank can hold when it may hold `redundant` more than an even share.
int32_t ExpertSlots(int32_t num_experts, int32_t num_ranks, int32_t redundant);

// Of the placements of all layers, to tell whether two ranks mean the same; at least 2.
uint64_t DigestOf(const std::vector<ExpertPlacement>& layers);

}  // namespace choir
