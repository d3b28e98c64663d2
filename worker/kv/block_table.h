// BlockTable: the blocks of one sequence, in order of its tokens: token p lies in block p /
// block_tokens. Holds blocks of a pool until Release. A value, as the pool is: a copy belongs to a
// copy of the pool. Owner thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/kv/block_pool.h"

namespace choir {

inline int64_t BlocksFor(int64_t num_tokens, int64_t block_tokens) {
  return (num_tokens + block_tokens - 1) / block_tokens;
}

class BlockTable {
 public:
  // Grows to `num_blocks`. False, with nothing changed, when the pool has too few.
  bool Grow(int64_t num_blocks, BlockPool* pool);
  // Begins with the blocks of `keys`. REQUIRES: empty; the pool has them all.
  void ShareAll(std::span<const BlockKey> keys, BlockPool* pool);
  // Block `index` is full: makes it known by its key. Where another block has the key, which holds
  // the same bits, that one takes its place here. REQUIRES: the blocks before it are published.
  void Publish(int64_t index, const BlockKey& key, BlockPool* pool);
  void Release(BlockPool* pool);  // all blocks back

  // Where token `position` lies in the pool. REQUIRES: within the table.
  int64_t Slot(int64_t position, int64_t block_tokens) const {
    return int64_t{blocks_[static_cast<size_t>(position / block_tokens)]} * block_tokens +
           position % block_tokens;
  }
  std::span<const int32_t> blocks() const { return blocks_; }
  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  std::vector<int32_t> blocks_;
};

}  // namespace choir
