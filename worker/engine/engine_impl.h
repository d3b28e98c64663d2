// The one implementation of Engine. Private to worker/engine.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "common/runtime/bounded_queue.h"
#include "common/runtime/thread_team.h"
#include "worker/engine/engine.h"
#include "worker/engine/row_sampler.h"
#include "worker/engine/sequence_table.h"
#include "worker/engine/step_protocol.h"
#include "worker/kv/kv_pool.h"
#include "worker/model/exchange_maker.h"

namespace choir {

// What is made once and never changes.
struct EngineParts {
  EngineOptions options;
  ModelLimits limits;
  int num_ranks = 1;
  std::unique_ptr<Model> model;
  std::unique_ptr<KvPool> kv;
  ExchangeMaker exchanges;
  DeviceBuffer workspace;
  std::unique_ptr<ThreadTeam> team;
  std::unique_ptr<RowSampler> sampler;
  Engine::Sink sink;
};
// All but the team and what samples with it, on the model's device.
StatusOr<EngineParts> MakeEngineParts(const EngineOptions& options, std::unique_ptr<Model> model,
                                      const KernelSet* kernels, int num_ranks);

class EngineImpl final : public Engine {
 public:
  explicit EngineImpl(EngineParts parts);
  ~EngineImpl() override;

  Status Submit(SequenceRequest request) override;
  void Cancel(SequenceId id) override;
  EngineStats stats() const override;
  const ExpertCounts& expert_counts() const override { return model_->expert_counts(); }
  void SetEpoch(std::shared_ptr<Collectives> collectives) override;
  void OnEpochFailed(std::function<void(uint64_t, Status)> callback) override;
  void OnDeviceFailed(std::function<void(Status)> callback) override;
  void Run() override;
  void Stop() override;

 private:
  struct Epoch {
    std::shared_ptr<Collectives> collectives;
    std::unique_ptr<ExpertExchange> exchange;  // null where there is nothing to exchange
    std::unique_ptr<StepProtocol> protocol;
  };
  using Updates = std::vector<SequenceOutput>;

  // Owner thread.
  void TakeEpoch();
  Status BeginEpoch(std::shared_ptr<Collectives> collectives);
  void TakeInbox(bool wait);
  void StepOrSleep();
  StatusOr<bool> EnterStep(int64_t own_tokens);
  Status Compute(const StepPlan& plan);
  void EndEpoch(Finish finish);
  void FailEpoch(const Status& status);
  void TellOfDevice();  // once, if it has failed
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
  const std::unique_ptr<ExpertMover> mover_;  // null for a model without experts
  Device& device_;
  const std::unique_ptr<KvPool> kv_;
  const ExchangeMaker exchanges_;
  const DeviceBuffer workspace_;
  const std::unique_ptr<ThreadTeam> team_;
  const std::unique_ptr<RowSampler> sampler_;
  const Sink sink_;
  std::function<void(uint64_t, Status)> on_epoch_failed_;
  std::function<void(Status)> on_device_failed_;  // empty once it was called

  // The owner's.
  SequenceTable table_;
  Epoch epoch_;
  StepRows rows_;
  const Stream stream_;
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
