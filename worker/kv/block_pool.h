// BlockPool: which KV blocks are free and which are held. Blocks are the unit in which sequences
// get KV memory; a block's bytes lie in KvPool. The ledger free + held == total holds at every
// moment; giving back a block that is not held is a bug and stops the process. Owned by the engine;
// its owner thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace choir {

class BlockPool {
 public:
  explicit BlockPool(int64_t num_blocks);  // 1..2^31-1

  // The block given back last comes first: its memory is warm, and untouched memory stays
  // untouched.
  std::optional<int32_t> Allocate();  // nullopt: none is free
  void Free(int32_t block);           // REQUIRES: held

  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_held() const { return num_held_; }
  int64_t num_total() const { return static_cast<int64_t>(held_.size()); }
  // free + held - total: 0, or there is a bug.
  int64_t LedgerDifference() const { return num_free() + num_held_ - num_total(); }
  // Counts everything again, one by one; for tests and for audits of the ledger.
  bool IsConsistent() const;

 private:
  std::vector<int32_t> free_;  // a stack
  std::vector<uint8_t> held_;  // by block
  int64_t num_held_ = 0;       // counted on its own, so that the ledger has something to compare
};

}  // namespace choir
