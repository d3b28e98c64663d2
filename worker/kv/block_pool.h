// BlockPool: which KV blocks are free, held and cached. Blocks are the unit in which sequences get
// KV memory; a block's bytes lie in KvPool.
//
//   free    holds nothing of use.
//   held    one or more sequences hold it. Several may: a block that has a key is full and is never
//           written again, so they only read it.
//   cached  nobody holds it, but it has a key and can be found by it until its memory is needed.
//
// Cached blocks are evicted least recently given back first. A sequence holds all blocks of its
// keys' chain and gives back its last one first, so a block is never evicted before those that
// follow it in a chain: what can be found is closed towards the begin.
//
// The ledger free + held + cached == total holds at every moment; giving back a block that is not
// held is a bug and stops the process. A value: a copy is another pool in the same state. Owned by
// the scheduler's state; its owner thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/kv/block_key.h"

namespace choir {

class BlockPool {
 public:
  explicit BlockPool(int64_t num_blocks);  // 1..2^31-1

  // With one holder and without a key. Free ones first, and of these the one given back last: its
  // memory is warm, and untouched memory stays untouched. nullopt: all are held.
  std::optional<int32_t> Allocate();
  void Share(int32_t block);    // one holder more. REQUIRES: held or cached
  void Release(int32_t block);  // one holder less. REQUIRES: held

  // From now on `block` is found by `key`. REQUIRES: held, without a key; nothing has this key.
  void Publish(int32_t block, const BlockKey& key);
  std::optional<int32_t> Find(const BlockKey& key) const;

  int32_t holders(int32_t block) const { return slots_[static_cast<size_t>(block)].holders; }

  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_held() const { return num_held_; }
  int64_t num_cached() const { return num_cached_; }
  int64_t num_total() const { return static_cast<int64_t>(slots_.size()); }
  int64_t num_available() const { return num_free() + num_cached_; }  // for Allocate
  // free + held + cached - total: 0, or there is a bug.
  int64_t LedgerDifference() const { return num_free() + num_held_ + num_cached_ - num_total(); }
  // Counts everything again, one by one; for tests and for audits of the ledger.
  bool IsConsistent() const;

 private:
  static constexpr int32_t kNone = -1;
  struct Slot {
    int32_t holders = 0;
    int32_t before = kNone, after = kNone;  // neighbours in the order of eviction, while cached
    bool has_key = false;
    BlockKey key{};
  };

  Slot& At(int32_t block);
  void Link(int32_t block);    // as the last to be evicted
  void Unlink(int32_t block);  // REQUIRES: cached

  std::vector<Slot> slots_;                                     // by block
  std::vector<int32_t> free_;                                   // a stack
  std::unordered_map<BlockKey, int32_t, BlockKeyHash> by_key_;  // held and cached ones
  int32_t first_ = kNone, last_ = kNone;                        // of the cached ones
  // Counted on their own, so that the ledger has something to compare.
  int64_t num_held_ = 0;
  int64_t num_cached_ = 0;
};

}  // namespace choir
