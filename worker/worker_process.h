// A worker process from start to end: opens its ports, loads the model, joins its group, serves,
// drains.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "common/http/admin_server.h"
#include "common/rpc/tracing.h"
#include "common/tls/tls_report.h"
#include "worker/backend.h"
#include "worker/comm/device_join.h"
#include "worker/config.h"
#include "worker/engine/engine.h"
#include "worker/model/model.h"
#include "worker/readiness.h"
#include "worker/rpc/group_client.h"
#include "worker/rpc/worker_server.h"
#include "worker/self_test.h"
#include "worker/worker_metrics.h"

namespace choir {

class WorkerProcess {
 public:
  // `on_change` is called, from any thread, whenever NeedsTicks may have changed.
  WorkerProcess(WorkerConfig config, std::function<void()> on_change);
  ~WorkerProcess();

  // Binds the ports and prints "listening grpc=HOST:PORT admin=HOST:PORT" on stdout.
  Status Listen();
  // Loads the model and begins to serve. Takes as long as reading the weights.
  Status Load();

  // Any thread. Nothing new is taken; what runs may finish.
  void BeginDrain();
  // Call it now and then once a drain may be going on; true: nothing is left, the process may end.
  bool DrainIsOver();
  bool NeedsTicks() const;  // a drain goes on, here or in the group
  // Any thread. What has ended this process's work for good: it has to be started again.
  bool failed() const;

  // Leaves the group, ends what still runs, closes the ports.
  void Stop();

 private:
  EngineOptions OptionsOfEngine() const;
  Status OpenDevice();
  Status MakeEngine(std::shared_ptr<const LoadedModel> loaded);
  void Serve(const LoadedModel& loaded);
  void JoinGroup(const LoadedModel& loaded);
  StatusOr<std::string> AddressForRanks();  // of other hosts
  std::string AdvertisedAddress();
  void OnEpoch(const std::shared_ptr<Collectives>& collectives);
  void OnOutput(StepOutput output);
  void OnDeviceFailed(const Status& status);
  void OnLoadProgress(int64_t done, int64_t total);
  // The one before goes once the lock is free: it waits for its threads.
  void SetGroup(std::unique_ptr<GroupClient> group) {
    const std::lock_guard lock(group_mu_);
    group_.swap(group);
  }
  // Changes the facts, and tells the world when the status that follows from them changed.
  void Learn(const std::function<void(WorkerFacts&)>& change);
  EngineStats Stats() const;
  std::string StatusJson() const;
  AdminHandlers Handlers();

  const WorkerConfig config_;
  const std::function<void()> on_change_;
  const uint64_t incarnation_;
  WorkerMetrics metrics_;
  const Tracing tracing_;
  std::shared_ptr<TlsIdentity> tls_;  // null: plain text
  std::unique_ptr<TlsReport> tls_report_;
  Backend backend_;
  std::unique_ptr<DeviceJoin> device_join_;  // null: the CPU computes
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<SelfTestRun> self_test_;

  mutable std::mutex mu_;  // guards the next seven, and server_ until Listen is done
  WorkerFacts facts_;
  WorkerStatus status_;
  ProgressWatch progress_;
  Engine* open_engine_ = nullptr;  // once it may be asked
  std::string weights_digest_;     // likewise
  std::string collectives_;        // of the epoch that is served: "nccl+shm"
  std::string rows_by_;            // likewise; see DeviceJoin::path
  MonoTime progress_shown_{};      // of loading; the loading thread's

  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<WorkerServer> server_;
  StatusOr<std::string> address_for_ranks_;  // JoinGroup's, then the group's thread's
  std::mutex group_mu_;  // the engine's thread looks at group_, which the main thread sets
  std::unique_ptr<GroupClient> group_;
  std::jthread engine_thread_;
};

}  // namespace choir
