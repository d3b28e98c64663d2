#include "worker/comm/expert_placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/check.h"

namespace choir {

ExpertPlacement::ExpertPlacement(int32_t num_experts, int32_t num_ranks) {
  CHOIR_CHECK(num_experts >= 0 && num_ranks >= 1);
  const int32_t base = num_experts / num_ranks, extra = num_experts % num_ranks;
  int32_t next = 0;
  for (int32_t r = 0; r < num_ranks; ++r) {
    std::vector<int32_t>& experts =
        experts_of_.emplace_back(static_cast<size_t>(base + (r < extra)));
    std::iota(experts.begin(), experts.end(), next);
    next += static_cast<int32_t>(experts.size());
  }
  FindRanks(num_experts);
}

ExpertPlacement::ExpertPlacement(int32_t num_experts, std::vector<std::vector<int32_t>> experts_of)
    : experts_of_(std::move(experts_of)) {
  CHOIR_CHECK(num_experts >= 0 && !experts_of_.empty());
  for (const std::vector<int32_t>& experts : experts_of_) {
    for (const int32_t e : experts) CHOIR_CHECK(e >= 0 && e < num_experts);
  }
  FindRanks(num_experts);
}

void ExpertPlacement::FindRanks(int32_t num_experts) {
  begins_.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (const std::vector<int32_t>& experts : experts_of_) {
    for (const int32_t e : experts) ++begins_[static_cast<size_t>(e) + 1];
  }
  for (size_t e = 0; e + 1 < begins_.size(); ++e) {
    CHOIR_CHECK(begins_[e + 1] > 0);
    begins_[e + 1] += begins_[e];
  }
  ranks_.resize(begins_.back());
  slots_.resize(begins_.back());
  std::vector<size_t> next(begins_.begin(), begins_.end() - 1);
  for (size_t r = 0; r < experts_of_.size(); ++r) {
    for (size_t slot = 0; slot < experts_of_[r].size(); ++slot) {
      const auto e = static_cast<size_t>(experts_of_[r][slot]);
      const size_t at = next[e]++;
      CHOIR_CHECK(at == begins_[e] || ranks_[at - 1] < static_cast<int32_t>(r));  // once on a rank
      ranks_[at] = static_cast<int32_t>(r);
      slots_[at] = static_cast<int32_t>(slot);
    }
  }
}

int32_t ExpertPlacement::SlotOf(int32_t rank, int32_t expert) const {
  if (expert < 0 || expert >= num_experts()) return -1;
  const std::span<const int32_t> ranks = RanksOf(expert);
  const auto at = std::lower_bound(ranks.begin(), ranks.end(), rank);
  if (at == ranks.end() || *at != rank) return -1;
  return slots_[begins_[static_cast<size_t>(expert)] + static_cast<size_t>(at - ranks.begin())];
}

int32_t ExpertSlots(int32_t num_experts, int32_t num_ranks, int32_t redundant) {
  return std::min(num_experts, (num_experts + num_ranks - 1) / num_ranks + redundant);
}

uint64_t DigestOf(const std::vector<ExpertPlacement>& layers) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, a number at a time
  const auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  for (const ExpertPlacement& layer : layers) {
    for (int32_t r = 0; r < layer.num_ranks(); ++r) {
      add(layer.ExpertsOf(r).size());
      for (const int32_t e : layer.ExpertsOf(r)) add(static_cast<uint64_t>(e));
    }
  }
  return std::max<uint64_t>(hash, 2);
}

}  // namespace choir
