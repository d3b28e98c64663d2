// A table of ranks for tests of policies.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/policy/policy.h"

namespace choir {

class Ranks {
 public:
  // Ready, idle, in epoch 1 of connection 1; rank number `rank` of group 0.
  WorkerView& Add(const std::string& id, const std::string& numerics = "n") {
    auto worker = std::make_unique<WorkerView>();
    worker->index = WorkerIndex(static_cast<uint32_t>(workers_.size()));
    worker->phase = WorkerPhase::kReady;
    worker->connection = 1;
    worker->epoch = 1;
    WorkerIdentity identity;
    identity.worker_id = id;
    identity.rank = worker->index.value();
    identity.numerics_id = numerics;
    worker->identity = std::make_shared<const WorkerIdentity>(identity);
    workers_.push_back(std::move(worker));
    return *workers_.back();
  }
  Ranks& AddMany(size_t n) {
    while (n-- > 0) Add("r" + std::to_string(workers_.size()));
    return *this;
  }

  void SetBlockTokens(size_t i, uint32_t block_tokens) {
    WorkerIdentity identity = *workers_[i]->identity;
    identity.kv_block_tokens = block_tokens;
    workers_[i]->identity = std::make_shared<const WorkerIdentity>(identity);
  }
  WorkerView& operator[](size_t i) { return *workers_[i]; }
  size_t size() const { return workers_.size(); }
  // As they are now.
  const RankTable& table() {
    for (const auto& worker : workers_) table_.Update(*worker);
    return table_;
  }
  Placement PlacementOf(size_t i) const {
    const WorkerView& w = *workers_[i];
    return {w.index, w.connection, w.epoch, w.identity->numerics_id};
  }

 private:
  std::vector<std::unique_ptr<WorkerView>> workers_;
  RankTable table_;
};

inline uint32_t Index(const std::optional<Pick>& pick) { return pick->placement.worker.value(); }

}  // namespace choir
