#include "worker/kv/block_table.h"

#include "common/base/check.h"

namespace choir {

bool BlockTable::Grow(int64_t num_blocks, BlockPool* pool) {
  if (num_blocks - size() > pool->num_available()) return false;
  while (size() < num_blocks) blocks_.push_back(*pool->Allocate());
  return true;
}

void BlockTable::ShareAll(std::span<const BlockKey> keys, BlockPool* pool) {
  CHOIR_CHECK(blocks_.empty());
  for (const BlockKey& key : keys) {
    const std::optional<int32_t> block = pool->Find(key);
    CHOIR_CHECK(block.has_value());
    pool->Share(*block);
    blocks_.push_back(*block);
  }
}

void BlockTable::Publish(int64_t index, const BlockKey& key, BlockPool* pool) {
  int32_t& own = blocks_[static_cast<size_t>(index)];
  const std::optional<int32_t> known = pool->Find(key);
  if (!known) {
    pool->Publish(own, key);
    return;
  }
  pool->Share(*known);
  pool->Release(own);
  own = *known;
}

void BlockTable::Release(BlockPool* pool) {
  // Last first, so that the next sequence gets them in ascending order again, and that the begin of
  // a cached sequence outlives its end.
  while (!blocks_.empty()) {
    pool->Release(blocks_.back());
    blocks_.pop_back();
  }
}

}  // namespace choir
