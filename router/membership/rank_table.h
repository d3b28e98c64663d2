// The ranks that may be given work, in the orders in which policies look for one. Kept as the ranks
// change, at O(log ranks) a change, so that neither a change nor a decision costs more where there
// are more of them. A policy reads it as it reads a value: nothing changes during a decision. Owned
// by the membership; its owner thread only.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "router/membership/snapshot.h"

namespace choir {

// Spreads whatever is in `x` over all bits. A bijection.
uint64_t MixBits(uint64_t x);

// Where nothing else tells two ranks apart: by group and rank, then by name.
bool RankOrder(const WorkerIdentity& a, const WorkerIdentity& b);

class RankTable {
 public:
  // Least load first; ranks of equal load in the order of RankOrder.
  struct ByLoad {
    uint64_t load = 0;
    const WorkerIdentity* identity = nullptr;  // the slot keeps it
    const WorkerView* worker = nullptr;
    bool operator<(const ByLoad& other) const;
  };

  // As `worker` is now: in the table when it serves, else not. It stays at its address until
  // Remove.
  void Update(const WorkerView& worker);
  void Remove(WorkerIndex worker);

  size_t size() const { return slots_.size(); }
  // In an order that the same changes make the same.
  const WorkerView& at(size_t i) const { return *slots_[i].worker; }
  // Of the name of at(i): it finds the same rank again in another table, another router, another
  // life. REQUIRES: i < size()
  uint64_t name_hash(size_t i) const { return name_hashes_[i]; }
  // Null: it does not serve.
  const WorkerView* Find(WorkerIndex worker) const;

  const std::set<ByLoad>& by_load() const { return by_load_; }
  uint64_t least_load() const { return by_load_.empty() ? 0 : by_load_.begin()->load; }
  // Ranks that hold this numerics id; all of them when it is empty.
  size_t CountOf(const std::string& numerics_id) const;

 private:
  struct Slot {
    const WorkerView* worker = nullptr;
    std::shared_ptr<const WorkerIdentity> identity;  // as it was put into the orders
    std::set<ByLoad>::iterator by_load;
  };

  void Insert(const WorkerView& worker);
  void Drop(uint32_t slot);

  std::vector<Slot> slots_;
  std::vector<uint64_t> name_hashes_;  // by slot; apart, because it is read in one sweep
  std::unordered_map<WorkerIndex, uint32_t> slot_of_;
  std::set<ByLoad> by_load_;
  std::unordered_map<std::string, size_t> numerics_;
};

}  // namespace choir
