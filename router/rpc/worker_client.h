// The streams to the workers: one multiplexed stream per address, connected again with growing
// pauses when it breaks. All methods are for the owner thread; gRPC's threads only convert and post
// to the loop. One received message is under way per worker, so a slow owner slows the workers'
// streams, not the memory.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/tls/tls_identity.h"
#include "router/core/router_core.h"
#include "router/core/router_loop.h"
#include "router/rpc/alive.h"

namespace choir {

struct WorkerClientLimits {
  Duration hello_timeout = std::chrono::seconds(10);
  Duration backoff_min = std::chrono::milliseconds(50);
  Duration backoff_max = std::chrono::seconds(2);
  // A worker that was refused will hardly change by itself.
  Duration refused_retry = std::chrono::seconds(5);
  size_t pending_bytes_max = 256 << 20;  // not yet taken by the stream; beyond it the stream is cut
};

struct WorkerClientTls {
  std::shared_ptr<TlsIdentity> identity;  // null: plain text
  TlsOptions options;
};

class WorkerClient : public WorkerLinks {
 public:
  WorkerClient(std::string router_id, WorkerClientLimits limits, WorkerClientTls tls,
               RouterLoop* loop, const Clock* clock);
  ~WorkerClient() override;

  // Before anything else.
  void SetCore(RouterCore* core) { core_ = core; }
  // From now on exactly these addresses.
  void SetAddresses(const std::vector<std::string>& addresses);
  // Each round of the loop: writes what was gathered, connects what is due.
  void EachRound();
  // Ends all streams; on the owner thread, or when it is no more.
  void Close();
  // Any thread, after Close: returns when gRPC holds none of the streams any more.
  void WaitClosed();

  void Submit(WorkerIndex worker, SequenceSubmit submit) override;
  void Cancel(WorkerIndex worker, SequenceId id) override;
  void Reconcile(WorkerIndex worker, const std::vector<SequenceId>& ids) override;
  void Disconnect(WorkerIndex worker, const std::string& reason) override;

 private:
  class Stream;
  struct Link;

  void Connect(Link& link);
  void Drop(Link& link, const std::string& reason, Duration pause);
  void CutOff(Link& link, const std::string& reason);
  Link* Current(WorkerIndex worker, uint64_t connection);
  struct Received;
  void OnReceived(WorkerIndex worker, uint64_t connection, Received received);
  void OnEnded(WorkerIndex worker, uint64_t connection, const std::string& reason);

  const std::string router_id_;
  const WorkerClientLimits limits_;
  const WorkerClientTls tls_;
  RouterLoop* const loop_;
  const Clock* const clock_;
  RouterCore* core_ = nullptr;
  std::map<WorkerIndex, std::unique_ptr<Link>> links_;
  uint64_t next_connection_ = 1;
  std::minstd_rand jitter_;
  bool closed_ = false;
  const std::shared_ptr<Alive> alive_ = std::make_shared<Alive>();
};

}  // namespace choir
