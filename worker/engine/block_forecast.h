// BlockForecast: a pool as it will be once a plan is carried out, without touching it: what
// sequences give back by being preempted, and what newcomers find and take. A copy asks "what if".
// Lives within one PlanStep. Private to the scheduler.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <unordered_map>

#include "worker/kv/block_pool.h"

namespace choir {

class BlockForecast {
 public:
  explicit BlockForecast(const BlockPool& pool) : pool_(&pool), available_(pool.num_available()) {}

  int64_t available() const { return available_; }

  // How many of these keys, from the first, are found. What is found is closed towards the begin.
  int64_t NumFound(std::span<const BlockKey> keys) const {
    const auto end = std::partition_point(
        keys.begin(), keys.end(), [&](const BlockKey& k) { return pool_->Find(k).has_value(); });
    return end - keys.begin();
  }
  // What holding them takes from what is available: those that nobody holds. REQUIRES: found.
  int64_t CostOf(std::span<const BlockKey> keys) const {
    return std::count_if(keys.begin(), keys.end(),
                         [&](const BlockKey& k) { return HoldersOf(*pool_->Find(k)) == 0; });
  }

  void Allocate(int64_t num_blocks) { available_ -= num_blocks; }
  void Share(std::span<const BlockKey> keys) {
    for (const BlockKey& key : keys) {
      const int32_t block = *pool_->Find(key);
      if (HoldersOf(block) == 0) --available_;
      ++change_[block];
    }
  }
  void Release(std::span<const int32_t> blocks) {
    for (const int32_t block : blocks) {
      --change_[block];
      if (HoldersOf(block) == 0) ++available_;
    }
  }

 private:
  int64_t HoldersOf(int32_t block) const {
    const auto it = change_.find(block);
    return pool_->holders(block) + (it == change_.end() ? 0 : it->second);
  }

  const BlockPool* pool_;
  int64_t available_;
  std::unordered_map<int32_t, int32_t> change_;  // of holders, by block
};

}  // namespace choir
