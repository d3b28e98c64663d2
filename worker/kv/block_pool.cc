#include "worker/kv/block_pool.h"

#include <limits>

#include "common/base/check.h"

namespace choir {

BlockPool::BlockPool(int64_t num_blocks) {
  CHOIR_CHECK(num_blocks >= 1 && num_blocks <= std::numeric_limits<int32_t>::max());
  held_.resize(static_cast<size_t>(num_blocks), 0);
  free_.reserve(held_.size());
  for (int64_t b = num_blocks; b-- > 0;) free_.push_back(static_cast<int32_t>(b));
}

std::optional<int32_t> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  CHOIR_CHECK(held_[static_cast<size_t>(block)] == 0);
  held_[static_cast<size_t>(block)] = 1;
  ++num_held_;
  return block;
}

void BlockPool::Free(int32_t block) {
  CHOIR_CHECK(block >= 0 && block < num_total());
  CHOIR_CHECK(held_[static_cast<size_t>(block)] == 1);
  held_[static_cast<size_t>(block)] = 0;
  --num_held_;
  free_.push_back(block);
}

bool BlockPool::IsConsistent() const {
  int64_t held = 0;
  for (const uint8_t h : held_) held += h;
  if (held != num_held_ || LedgerDifference() != 0) return false;
  std::vector<uint8_t> seen(held_.size(), 0);
  for (const int32_t block : free_) {
    const size_t b = static_cast<size_t>(block);
    if (b >= held_.size() || held_[b] != 0 || seen[b] != 0) return false;
    seen[b] = 1;
  }
  return true;
}

}  // namespace choir
