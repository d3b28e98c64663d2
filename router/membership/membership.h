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
#include <string>
#include <vector>

#include "common/base/status.h"
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
  explicit Membership(int32_t vocab_size) : vocab_size_(vocab_size) {}

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
  void OnLoad(WorkerIndex worker, const WorkerLoad& load);
  void OnStreamLost(WorkerIndex worker, const std::string& reason);

  // This router's own sequences, as they come and go.
  void Assign(WorkerIndex worker, uint64_t tokens);
  void FirstToken(WorkerIndex worker, uint64_t tokens);
  void Release(WorkerIndex worker, uint64_t unanswered_tokens);

  std::shared_ptr<const Snapshot> snapshot() const;
  const WorkerView* Find(WorkerIndex worker) const;

  // Of the workers in use; nullopt before the first was accepted.
  std::optional<WorkerIdentity> model() const { return model_; }
  // Smallest context of the accepted workers, 0 when none is known.
  uint32_t context_length() const;

 private:
  WorkerView& At(WorkerIndex worker);
  Status Check(const WorkerView& worker, const WorkerIdentity& identity) const;
  void ForgetModelWhenUnused();

  int32_t vocab_size_;
  uint32_t next_index_ = 0;
  std::map<WorkerIndex, WorkerView> workers_;
  std::optional<WorkerIdentity> model_;
  uint64_t version_ = 0;
  mutable std::shared_ptr<const Snapshot> snapshot_;  // null: to be rebuilt
};

}  // namespace choir
