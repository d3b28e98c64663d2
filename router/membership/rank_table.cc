#include "router/membership/rank_table.h"

#include <tuple>

namespace choir {
namespace {

RankTable::ByLoad KeyOf(const WorkerView& worker) {
  return {LoadOf(worker), worker.identity.get(), &worker};
}

uint64_t HashOf(std::string_view name) {
  uint64_t hash = name.size();
  for (const char c : name) hash = MixBits(hash ^ static_cast<uint8_t>(c));
  return hash;
}

}  // namespace

// The finalizer of MurmurHash3 (A. Appleby, public domain).
uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// Names of accepted workers differ.
bool RankOrder(const WorkerIdentity& a, const WorkerIdentity& b) {
  return std::tie(a.group, a.rank, a.worker_id) < std::tie(b.group, b.rank, b.worker_id);
}

bool RankTable::ByLoad::operator<(const ByLoad& other) const {
  return load != other.load ? load < other.load : RankOrder(*identity, *other.identity);
}

void RankTable::Update(const WorkerView& worker) {
  const auto found = slot_of_.find(worker.index);
  if (found == slot_of_.end()) {
    if (worker.Serves()) Insert(worker);
    return;
  }
  Slot& slot = slots_[found->second];
  if (worker.Serves() && slot.identity == worker.identity) {
    const ByLoad key = KeyOf(worker);
    if (key.load == slot.by_load->load) return;
    auto node = by_load_.extract(slot.by_load);
    node.value() = key;
    slot.by_load = by_load_.insert(std::move(node)).position;
    return;
  }
  Drop(found->second);
  if (worker.Serves()) Insert(worker);
}

void RankTable::Remove(WorkerIndex worker) {
  const auto found = slot_of_.find(worker);
  if (found != slot_of_.end()) Drop(found->second);
}

void RankTable::Insert(const WorkerView& worker) {
  slot_of_[worker.index] = static_cast<uint32_t>(slots_.size());
  slots_.push_back({&worker, worker.identity, by_load_.insert(KeyOf(worker)).first});
  name_hashes_.push_back(HashOf(worker.identity->worker_id));
  ++numerics_[worker.identity->numerics_id];
}

// The last one takes its place.
void RankTable::Drop(uint32_t slot) {
  const auto count = numerics_.find(slots_[slot].identity->numerics_id);
  if (--count->second == 0) numerics_.erase(count);
  slot_of_.erase(slots_[slot].worker->index);
  by_load_.erase(slots_[slot].by_load);
  if (slot + 1 != slots_.size()) {
    slots_[slot] = std::move(slots_.back());
    name_hashes_[slot] = name_hashes_.back();
    slot_of_[slots_[slot].worker->index] = slot;
  }
  slots_.pop_back();
  name_hashes_.pop_back();
}

const WorkerView* RankTable::Find(WorkerIndex worker) const {
  const auto found = slot_of_.find(worker);
  return found == slot_of_.end() ? nullptr : slots_[found->second].worker;
}

size_t RankTable::CountOf(const std::string& numerics_id) const {
  if (numerics_id.empty()) return size();
  const auto found = numerics_.find(numerics_id);
  return found == numerics_.end() ? 0 : found->second;
}

}  // namespace choir
