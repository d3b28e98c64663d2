// The one implementation of Engine. Private to worker/engine.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "common/runtime/bounded_queue.h"
#include "common/runtime/thread_team.h"
#include "worker/engine/engine.h"
#include "worker/engine/sequence_table.h"
#include "worker/engine/step_protocol.h"
#include "worker/kv/kv_pool.h"

namespace choir {

// What is made once and never changes.
struct EngineParts {
  EngineOptions options;
  ModelLimits limits;
  int num_ranks = 1;
  std::unique_ptr<Model> model;
  std::unique_ptr<KvPool> kv;
  std::unique_ptr<ThreadTeam> team;
  size_t workspace_bytes = 0;
  Engine::Sink sink;
};

class EngineImpl final : public Engine {
 public:
  explicit EngineImpl(EngineParts parts);
  ~EngineImpl() override;

  Status Submit(SequenceRequest request) override;
  void Cancel(SequenceId id) override;
  EngineStats stats() const override;
  void SetEpoch(std::shared_ptr<Collectives> collectives) override;
  void OnEpochFailed(std::function<void(uint64_t, Status)> callback) override;
  void Run() override;
  void Stop() override;

 private:
  struct Epoch {
    std::shared_ptr<Collectives> collectives;
    std::unique_ptr<ExpertExchange> exchange;  // null for a model without experts
    std::unique_ptr<StepProtocol> protocol;
  };
  using Updates = std::vector<SequenceOutput>;

  // Owner thread.
  void TakeEpoch();
  void TakeInbox(bool wait);
  void StepOrSleep();
  Status Compute(const StepPlan& plan);
  void SampleRows();
  void EndEpoch(Finish finish);
  void FailEpoch(const Status& status);
  void CountStep(const StepPlan& plan, double seconds);
  void CountIdle();
  void CountExperts();
  void Publish();
  void EmitUpdates(bool always);
  void SyncQueued(int64_t drained);

  // Any thread.
  void WakeOwner();

  const EngineOptions options_;
  const ModelLimits limits_;
  const int num_ranks_;
  const ModelInfo info_;
  const std::unique_ptr<Model> model_;
  const std::unique_ptr<KvPool> kv_;
  const std::unique_ptr<ThreadTeam> team_;
  const Sink sink_;
  std::function<void(uint64_t, Status)> on_epoch_failed_;

  // The owner's.
  SequenceTable table_;
  Epoch epoch_;
  StepRows rows_;
  std::unique_ptr<float[]> logits_;  // [logit_rows_max, vocab]; touched as far as used
  std::unique_ptr<std::byte[]> workspace_memory_;
  Stream stream_;
  std::vector<Sampler> samplers_;  // one a thread of the team
  std::vector<SampledToken> sampled_;
  Updates updates_;
  EngineStats counts_;
  ExpertLoadMeter expert_load_;
  ExchangeStats ended_exchanges_;  // of epochs that are over
  int64_t last_waiting_ = 0;

  // The door.
  BoundedQueue<SequenceRequest> inbox_;
  std::atomic<int64_t> queued_{0};  // in the inbox or waiting
  std::atomic<bool> stop_{false};
  mutable std::mutex mu_;                   // guards what follows
  std::unordered_set<SequenceId> cancels_;  // no more than sequences that live or lie in the inbox
  std::shared_ptr<Collectives> current_;    // the owner's epoch, for waking it
  std::shared_ptr<Collectives> next_;       // of SetEpoch
  bool has_next_ = false;
  EngineStats published_;
};

}  // namespace choir
