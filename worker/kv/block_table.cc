#include "worker/kv/block_table.h"

#include "common/base/check.h"

namespace choir {

BlockTable::~BlockTable() { CHOIR_CHECK(blocks_.empty()); }

bool BlockTable::Grow(int64_t num_blocks, BlockPool* pool) {
  if (num_blocks - size() > pool->num_free()) return false;
  while (size() < num_blocks) blocks_.push_back(*pool->Allocate());
  return true;
}

void BlockTable::Release(BlockPool* pool) {
  // Last first, so that the next sequence gets them in ascending order again.
  while (!blocks_.empty()) {
    pool->Free(blocks_.back());
    blocks_.pop_back();
  }
}

}  // namespace choir
