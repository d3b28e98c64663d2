#include "router/admission/fair_queue.h"

#include <algorithm>

#include "common/base/check.h"

namespace choir {

struct FairQueue::Tenant {
  std::string name;
  double weight = 1;
  double tag = 0;
  uint64_t order = 0;
  std::list<Entry*> waiting;  // in the order in which they came
  uint64_t waiting_work = 0;
  size_t started = 0;

  Key key() { return {tag, order, this}; }
  bool busy() const { return started > 0 || !waiting.empty(); }
};

FairQueue::FairQueue() = default;
FairQueue::~FairQueue() = default;

FairQueue::Tenant* FairQueue::Find(const std::string& name, double weight) {
  CHOIR_CHECK(weight > 0);
  auto [it, added] = tenants_.try_emplace(name);
  if (added) {
    it->second = std::make_unique<Tenant>();
    it->second->name = name;
    it->second->order = next_order_++;
    it->second->tag = now_;
  }
  Tenant* const tenant = it->second.get();
  ahead_.erase(tenant->key());
  if (!tenant->waiting.empty()) weights_ += weight - tenant->weight;
  tenant->weight = weight;
  return tenant;
}

void FairQueue::Add(Entry* entry, const std::string& name, double weight, uint64_t work) {
  Tenant* const tenant = Find(name, weight);
  if (tenant->waiting.empty()) {
    tenant->tag = std::max(tenant->tag, now_);
    active_.insert(tenant->key());
    weights_ += weight;
  }
  entry->work = work;
  entry->tenant = tenant;
  entry->at = tenant->waiting.insert(tenant->waiting.end(), entry);
  entry->waiting = true;
  tenant->waiting_work += work;
  work_ += work;
  ++size_;
}

FairQueue::Entry* FairQueue::front() const {
  return active_.empty() ? nullptr : std::get<Tenant*>(*active_.begin())->waiting.front();
}

void FairQueue::Pop() {
  Entry* const entry = front();
  CHOIR_CHECK(entry != nullptr);
  Tenant* const tenant = entry->tenant;
  ++tenant->started;  // so that Remove does not forget it
  const double tag = tenant->tag;
  Remove(entry);
  Advance(tag);
  Charge(tenant, entry->work);
}

void FairQueue::Start(Entry* entry, const std::string& name, double weight, uint64_t work) {
  Tenant* const tenant = Find(name, weight);
  entry->work = work;
  entry->tenant = tenant;
  entry->waiting = false;
  ++tenant->started;
  if (tenant->waiting.empty()) tenant->tag = std::max(tenant->tag, now_);
  Charge(tenant, work);
}

void FairQueue::Charge(Tenant* tenant, uint64_t work) {
  started_work_ += work;
  const bool active = active_.erase(tenant->key()) > 0;
  tenant->tag += static_cast<double>(work) / tenant->weight;
  if (active) active_.insert(tenant->key());
}

void FairQueue::Remove(Entry* entry) {
  CHOIR_CHECK(entry->waiting);
  Tenant* const tenant = entry->tenant;
  entry->waiting = false;
  tenant->waiting.erase(entry->at);
  tenant->waiting_work -= entry->work;
  work_ -= entry->work;
  --size_;
  if (!tenant->waiting.empty()) return;
  active_.erase(tenant->key());
  weights_ = active_.empty() ? 0 : weights_ - tenant->weight;
  Rest(tenant);
}

void FairQueue::Settle(Entry* entry, uint64_t used) {
  Tenant* const tenant = entry->tenant;
  CHOIR_CHECK(!entry->waiting && tenant != nullptr && tenant->started > 0);
  started_work_ -= entry->work;
  const bool active = active_.erase(tenant->key()) > 0;
  const double change = static_cast<double>(used) - static_cast<double>(entry->work);
  tenant->tag += change / tenant->weight;
  if (active) active_.insert(tenant->key());
  --tenant->started;
  entry->tenant = nullptr;
  Rest(tenant);
}

void FairQueue::Advance(double tag) {
  now_ = std::max(now_, tag);
  while (!ahead_.empty() && std::get<double>(*ahead_.begin()) <= now_) {
    Forget(std::get<Tenant*>(*ahead_.begin()));
  }
}

// Remembers one that has nothing here for as long as it is ahead of the others.
void FairQueue::Rest(Tenant* tenant) {
  if (tenant->busy()) return;
  if (tenant->tag <= now_) return Forget(tenant);
  ahead_.insert(tenant->key());
  if (ahead_.size() > kAheadMax) Forget(std::get<Tenant*>(*ahead_.begin()));
}

void FairQueue::Forget(Tenant* tenant) {
  ahead_.erase(tenant->key());
  tenants_.erase(std::string(tenant->name));
  if (tenants_.empty()) now_ = 0;  // nobody to compare with: numbers stay small
}

uint64_t FairQueue::WaitingWork(const std::string& name) const {
  const auto it = tenants_.find(name);
  return it == tenants_.end() ? 0 : it->second->waiting_work;
}

// Another tenant gets as much before it as this one has waiting already, by weight, and what this
// one is ahead of it, if it has that; of many the ones that it is furthest ahead of count.
double FairQueue::WorkBefore(const std::string& name, double weight) const {
  const auto it = tenants_.find(name);
  if (it == tenants_.end()) return 0;
  const Tenant& own = *it->second;
  const double tag = std::max(own.tag, now_);
  double before = static_cast<double>(own.waiting_work) * weights_ / weight;
  size_t seen = 0;
  for (const auto& [first, order, other] : active_) {
    if (first >= tag || ++seen > kBehindMax) break;
    before += std::min(static_cast<double>(other->waiting_work), (tag - first) * other->weight);
  }
  return std::min(static_cast<double>(work_), before);
}

size_t FairQueue::CountBefore(const std::string& name, double weight) const {
  // As Add and Pop move the tags: in the same order, so that they come to the same numbers.
  const auto own = tenants_.find(name);
  double tag = own == tenants_.end() ? now_ : std::max(own->second->tag, now_);
  const uint64_t order = own == tenants_.end() ? next_order_ : own->second->order;
  size_t before = 0;
  if (own != tenants_.end()) {
    for (const Entry* entry : own->second->waiting) {
      tag += static_cast<double>(entry->work) / weight;
      ++before;
    }
  }
  for (const auto& [first, other_order, tenant] : active_) {
    if (tenant->name == name) continue;
    double other = first;
    for (const Entry* entry : tenant->waiting) {
      if (std::pair(other, other_order) > std::pair(tag, order)) break;
      other += static_cast<double>(entry->work) / tenant->weight;
      ++before;
    }
  }
  return before;
}

}  // namespace choir
