// BlockTable: the blocks of one sequence, in order of its tokens: token p lies in block p /
// block_tokens. Holds blocks of a pool until Release; a table that still holds blocks may not be
// destroyed. Owner thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/kv/block_pool.h"

namespace choir {

inline int64_t BlocksFor(int64_t num_tokens, int64_t block_tokens) {
  return (num_tokens + block_tokens - 1) / block_tokens;
}

class BlockTable {
 public:
  explicit BlockTable(int64_t block_tokens) : block_tokens_(block_tokens) {}
  ~BlockTable();
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  // Grows to `num_blocks`. False, with nothing changed, when the pool has too few.
  bool Grow(int64_t num_blocks, BlockPool* pool);
  void Release(BlockPool* pool);  // all blocks back

  // Where token `position` lies in the pool. REQUIRES: within the table.
  int64_t Slot(int64_t position) const {
    return int64_t{blocks_[static_cast<size_t>(position / block_tokens_)]} * block_tokens_ +
           position % block_tokens_;
  }
  const int32_t* data() const { return blocks_.data(); }
  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t capacity_tokens() const { return size() * block_tokens_; }

 private:
  int64_t block_tokens_;
  std::vector<int32_t> blocks_;
};

}  // namespace choir
