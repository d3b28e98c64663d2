// The requests of one class that wait, in the order in which each tenant gets its share of the
// work: start-time fair queueing (Goyal, Vin, Cheng, 1996) over tenants. A tenant has a tag, which
// its work moves on in proportion to its weight; the tenant with the smallest tag is next. Work is
// charged as it was announced when a request starts, and corrected at its end by what was used.
//
// What holds: of two tenants that have requests waiting all the time, neither is ahead of the other
// by more than one request of each, in charged work by weight. A tenant that comes (back) begins
// where the others are: it may neither save up nor be made to pay for a time without a queue.
//
// Pure; one thread. O(log tenants) a call. Remembers a tenant as long as it has requests here, and
// one that is ahead of the others for as long as it is, kAheadMax of them.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>

namespace choir {

class FairQueue {
 public:
  static constexpr size_t kAheadMax = 4096;
  static constexpr size_t kBehindMax = 128;  // tenants that WorkBefore looks at

  struct Tenant;
  // A request's part in the queue; whoever has the request owns it, and keeps it where it is.
  struct Entry {
    uint64_t work = 0;  // as charged
    Tenant* tenant = nullptr;
    std::list<Entry*>::iterator at;
    bool waiting = false;
  };

  FairQueue();
  ~FairQueue();

  // It waits from now on. REQUIRES: 0 < weight.
  void Add(Entry* entry, const std::string& tenant, double weight, uint64_t work);
  // Who is next; null: nobody waits.
  Entry* front() const;
  // The first starts: it is charged, until Settle.
  void Pop();
  // Starts without having waited.
  void Start(Entry* entry, const std::string& tenant, double weight, uint64_t work);
  // It no longer waits. REQUIRES: it does.
  void Remove(Entry* entry);
  // It has ended. REQUIRES: it was started.
  void Settle(Entry* entry, uint64_t used);

  size_t size() const { return size_; }
  size_t waiting_tenants() const { return active_.size(); }
  uint64_t waiting_work() const { return work_; }
  uint64_t started_work() const { return started_work_; }  // charged, not settled
  uint64_t WaitingWork(const std::string& tenant) const;
  // Of the work that waits, how much would start before a request that this tenant adds now.
  double WorkBefore(const std::string& tenant, double weight) const;
  // Of those that wait, how many would start before a request that this tenant adds now, if nobody
  // else came. O(waiting).
  size_t CountBefore(const std::string& tenant, double weight) const;
  // For tests: tenants that are remembered.
  size_t known_tenants() const { return tenants_.size(); }

 private:
  using Key = std::tuple<double, uint64_t, Tenant*>;  // tag, then who came first

  Tenant* Find(const std::string& name, double weight);
  void Charge(Tenant* tenant, uint64_t work);
  void Advance(double tag);
  void Rest(Tenant* tenant);
  void Forget(Tenant* tenant);

  std::unordered_map<std::string, std::unique_ptr<Tenant>> tenants_;
  std::set<Key> active_;  // with requests that wait
  std::set<Key> ahead_;   // without any request, whose tags lie beyond now_
  double now_ = 0;        // the tag of what started last
  double weights_ = 0;    // of the active ones
  uint64_t next_order_ = 0;
  size_t size_ = 0;
  uint64_t work_ = 0;
  uint64_t started_work_ = 0;
};

}  // namespace choir
