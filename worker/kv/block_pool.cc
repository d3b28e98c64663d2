#include "worker/kv/block_pool.h"

#include <limits>
#include <utility>

#include "common/base/check.h"

namespace choir {

BlockPool::BlockPool(int64_t num_blocks) {
  CHOIR_CHECK(num_blocks >= 1 && num_blocks <= std::numeric_limits<int32_t>::max());
  slots_.resize(static_cast<size_t>(num_blocks));
  free_.reserve(slots_.size());
  for (int64_t b = num_blocks; b-- > 0;) free_.push_back(static_cast<int32_t>(b));
}

BlockPool::Slot& BlockPool::At(int32_t block) {
  CHOIR_CHECK(block >= 0 && block < num_total());
  return slots_[static_cast<size_t>(block)];
}

std::optional<int32_t> BlockPool::Allocate() {
  int32_t block = first_;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (block != kNone) {
    Unlink(block);
    Slot& evicted = At(block);
    CHOIR_CHECK(by_key_.erase(evicted.key) == 1);
    evicted.has_key = false;
  } else {
    return std::nullopt;
  }
  Slot& slot = At(block);
  CHOIR_CHECK(slot.holders == 0 && !slot.has_key);
  slot.holders = 1;
  ++num_held_;
  return block;
}

void BlockPool::Share(int32_t block) {
  Slot& slot = At(block);
  CHOIR_CHECK(slot.holders > 0 || slot.has_key);
  if (slot.holders == 0) {
    Unlink(block);
    ++num_held_;
  }
  ++slot.holders;
}

void BlockPool::Release(int32_t block) {
  Slot& slot = At(block);
  CHOIR_CHECK(slot.holders > 0);
  if (--slot.holders > 0) return;
  --num_held_;
  if (slot.has_key) {
    Link(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::Publish(int32_t block, const BlockKey& key) {
  Slot& slot = At(block);
  CHOIR_CHECK(slot.holders > 0 && !slot.has_key);
  CHOIR_CHECK(by_key_.emplace(key, block).second);
  slot.has_key = true;
  slot.key = key;
}

std::optional<int32_t> BlockPool::Find(const BlockKey& key) const {
  const auto it = by_key_.find(key);
  if (it == by_key_.end()) return std::nullopt;
  return it->second;
}

void BlockPool::Link(int32_t block) {
  Slot& slot = At(block);
  slot.before = last_;
  slot.after = kNone;
  if (last_ == kNone) {
    first_ = block;
  } else {
    At(last_).after = block;
  }
  last_ = block;
  ++num_cached_;
}

void BlockPool::Unlink(int32_t block) {
  Slot& slot = At(block);
  (slot.before == kNone ? first_ : At(slot.before).after) = slot.after;
  (slot.after == kNone ? last_ : At(slot.after).before) = slot.before;
  slot.before = slot.after = kNone;
  --num_cached_;
}

bool BlockPool::IsConsistent() const {
  enum : uint8_t { kUnseen, kFree, kCached };
  std::vector<uint8_t> seen(slots_.size(), kUnseen);
  const auto see = [&](int32_t block, uint8_t as) {
    if (block < 0 || block >= num_total()) return false;
    const Slot& slot = slots_[static_cast<size_t>(block)];
    if (slot.holders != 0 || slot.has_key != (as == kCached)) return false;
    return std::exchange(seen[static_cast<size_t>(block)], as) == kUnseen;
  };
  for (const int32_t block : free_) {
    if (!see(block, kFree)) return false;
  }
  int64_t cached = 0;
  for (int32_t b = first_; b != kNone; b = slots_[static_cast<size_t>(b)].after, ++cached) {
    if (!see(b, kCached)) return false;
  }
  int64_t held = 0, keys = 0;
  for (size_t b = 0; b < slots_.size(); ++b) {
    if (slots_[b].holders > 0) ++held;
    if (slots_[b].holders == 0 && seen[b] == kUnseen) return false;
    if (!slots_[b].has_key) continue;
    ++keys;
    if (Find(slots_[b].key) != static_cast<int32_t>(b)) return false;
  }
  return held == num_held_ && cached == num_cached_ &&
         keys == static_cast<int64_t>(by_key_.size()) && LedgerDifference() == 0;
}

}  // namespace choir
