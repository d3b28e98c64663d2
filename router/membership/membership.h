// The router's workers and the rules by which they are trusted: a pure state machine fed with what
// the worker streams say. Owned by the router's owner thread; snapshots may go to any thread.
//
// All workers in use hold one model with one numerics id: the first accepted worker sets them, and
// they hold as long as any accepted worker is connected. One that differs is refused by name.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/membership/rank_table.h"
#include "router/membership/snapshot.h"

namespace choir {

struct WorkerStateReport {
  bool ready = false;
  bool draining = false;
  uint64_t epoch = 0;
  std::string reason;
};

class Membership {
 public:
  // `vocab_size` is the tokenizer's: a worker with fewer rows cannot hold this model.
  explicit Membership(int32_t vocab_size, BreakerLimits breaker = {})
      : vocab_size_(vocab_size), breaker_limits_(breaker) {}

  // A configured address; the same address keeps its index.
  WorkerIndex Add(const std::string& address);
  // No longer configured: gone from snapshots at once.
  void Remove(WorkerIndex worker);

  // A new stream to the worker: what belongs to an older one no longer counts.
  void OnConnecting(WorkerIndex worker, uint64_t connection);
  // OK: accepted. Otherwise the reason it is refused for, naming it.
  Status OnHello(WorkerIndex worker, const WorkerIdentity& identity);
  // True: the epoch changed, and every sequence of the older one is gone.
  bool OnState(WorkerIndex worker, const WorkerStateReport& state);
  // As a step says it, which may be ahead of the state.
  bool OnEpoch(WorkerIndex worker, uint64_t epoch);
  // `worker` left this epoch of its group. So have its other ranks, even those that cannot say so
  // any more (stopped, or cut off): returns them; they are not ready until they say otherwise.
  std::vector<WorkerIndex> OnGroupEpochEnded(WorkerIndex worker, uint64_t epoch);
  void OnLoad(WorkerIndex worker, const WorkerLoad& load);
  void OnStreamLost(WorkerIndex worker, const std::string& reason);

  // This router's own sequences, as they come and go.
  void Assign(WorkerIndex worker, uint64_t tokens);
  void FirstToken(WorkerIndex worker, uint64_t tokens);
  void Release(WorkerIndex worker, uint64_t unanswered_tokens);

  // What its breaker is told. A failure is one event, however many sequences it took.
  void OnFailure(WorkerIndex worker, MonoTime now);
  void OnStall(WorkerIndex worker, MonoTime now);
  // Some worker may be tried again. At NextTimer or later.
  void OnTime(MonoTime now);
  // Whether a worker takes work again, by its breaker, since this was asked last.
  bool TakeReopened() { return std::exchange(reopened_, false); }
  MonoTime NextTimer() const;

  // Those that may be given work, as they are now; for one decision.
  const RankTable& ranks() const;
  // Of those; as of the last report of each, and what this router gave it.
  const RankCapacity& capacity() const;
  // Ready ones, whatever their breakers say.
  size_t num_ready() const;
  // Copies all of them.
  Snapshot snapshot() const;
  const WorkerView* Find(WorkerIndex worker) const;

  // Of the workers in use; nullopt before the first was accepted.
  std::optional<WorkerIdentity> model() const { return model_; }
  // Of the model's workers; 0: they keep no prefixes.
  uint32_t kv_block_tokens() const { return model_ ? model_->kv_block_tokens : 0; }
  // Smallest context of the accepted workers, 0 when none is known.
  uint32_t context_length() const;

 private:
  struct Member {
    WorkerView view;
    std::shared_ptr<const WorkerIdentity> counted;  // as which it is accepted; null: it is not
    bool counted_ready = false;
    RankCapacity counted_capacity;
  };
  using GroupKey = std::pair<uint32_t, uint32_t>;  // its number and its size

  // To change it: it is counted anew before anybody asks.
  WorkerView& At(WorkerIndex worker);
  void CountAnew() const;
  void Count(Member& member) const;
  void Uncount(Member& member) const;
  template <typename Tell>
  void TellBreaker(WorkerIndex worker, Tell tell);
  Status Check(const WorkerView& worker, const WorkerIdentity& identity) const;
  void ForgetModelWhenUnused();

  int32_t vocab_size_;
  BreakerLimits breaker_limits_;
  uint32_t next_index_ = 0;
  std::unordered_map<std::string, WorkerIndex> by_address_;
  std::map<WorkerIndex, CircuitBreaker> breakers_;  // over all connections of an address
  std::set<WorkerIndex> open_breakers_;
  bool reopened_ = false;
  std::optional<WorkerIdentity> model_;

  // What follows from the members; brought up to date by CountAnew.
  mutable std::map<WorkerIndex, Member> members_;
  mutable std::vector<WorkerIndex> changed_;
  mutable RankTable ranks_;
  mutable size_t num_ready_ = 0;
  mutable RankCapacity capacity_;
  mutable std::unordered_map<std::string, WorkerIndex> accepted_;  // by worker id
  mutable std::map<GroupKey, std::set<WorkerIndex>> groups_;       // of accepted ones
  mutable std::map<uint32_t, size_t> contexts_;                    // length, how many have it
};

}  // namespace choir
