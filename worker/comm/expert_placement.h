// Which rank owns which expert: contiguous ranges, the first (experts % ranks) ranks own one more.
// A pure value; every rank computes the same.
#pragma once

#include <cstdint>

#include "common/base/check.h"

namespace choir {

class ExpertPlacement {
 public:
  ExpertPlacement(int32_t num_experts, int32_t num_ranks)
      : experts_(num_experts), ranks_(num_ranks) {
    CHOIR_CHECK(num_experts >= 0 && num_ranks >= 1);
  }
  int32_t num_experts() const { return experts_; }
  int32_t num_ranks() const { return ranks_; }
  int32_t Begin(int32_t rank) const {
    const int32_t base = experts_ / ranks_, extra = experts_ % ranks_;
    return rank * base + (rank < extra ? rank : extra);
  }
  int32_t End(int32_t rank) const { return Begin(rank + 1); }
  int32_t OwnerOf(int32_t expert) const {
    const int32_t base = experts_ / ranks_, extra = experts_ % ranks_;
    const int32_t split = extra * (base + 1);  // experts below it sit on ranks with one more
    return expert < split ? expert / (base + 1) : extra + (expert - split) / base;
  }

 private:
  int32_t experts_;
  int32_t ranks_;
};

}  // namespace choir
