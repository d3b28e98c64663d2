// The gRPC side of a worker: Worker.Connect for routers, Group.Join at the leader, Admin.Drain,
// health and reflection, on one port. It opens before the model is there, so that its address is
// known and peers hear "loading" instead of nothing. No gRPC in this header. Thread-safe after
// Start. The engine given to Open must outlive the server's Shutdown.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/tls/tls_identity.h"
#include "common/trace/tracer.h"
#include "worker/engine/engine.h"
#include "worker/engine/types.h"
#include "worker/group/group_leader.h"

namespace choir {

struct RankIdentity {
  uint32_t group = 0;
  uint32_t rank = 0;
  uint32_t group_size = 1;
  uint64_t incarnation = 0;
  std::string Id() const { return fmt::format("g{}r{}", group, rank); }
};

// What routers are told about the model.
struct ServedModel {
  std::string model_id;
  std::string numerics_id;
  int64_t context_length = 0;
  int32_t vocab_size = 0;
  uint64_t kv_tokens_max = 0;
  uint32_t kv_block_tokens = 0;  // 0: without a prefix cache
  uint32_t running_max = 0;      // sequences at once; 0: routers are not told
};

// As WorkerState on the wire.
struct WorkerStatus {
  bool ready = false;
  bool draining = false;
  uint64_t epoch = 0;
  std::string reason;
  bool operator==(const WorkerStatus&) const = default;
};

struct WorkerServerOptions {
  std::string listen = "127.0.0.1:7100";
  RankIdentity identity;
  size_t stream_bytes_max = size_t{16}
                            << 20;  // unread bytes per router; beyond it the stream is cut
  int routers_max = 64;
  int sequences_max = 65536;  // of all routers
  int message_bytes_max = 64 << 20;
  std::shared_ptr<TlsIdentity> tls;  // null: plain text
  const Tracer* tracer = nullptr;    // null: nothing is traced; else outlives the server
  // Admin.Drain was called: begin to drain. Called from a gRPC thread.
  std::function<void()> on_drain;
};

class WorkerServer {
 public:
  // Unavailable, with the address, when it cannot be bound.
  static StatusOr<std::unique_ptr<WorkerServer>> Start(const WorkerServerOptions& options);
  virtual ~WorkerServer() = default;

  virtual const std::string& address() const = 0;  // with the real port

  // From now on routers are served.
  virtual void Open(const ServedModel& model, Engine* engine) = 0;
  // Rank 0: from now on ranks may join.
  virtual void LeadGroup(GroupLeaderOptions options) = 0;
  // The engine's sink. Does not block.
  virtual void Deliver(const StepOutput& output) = 0;
  // Told to every router, to health checks and to Admin.Drain's callers.
  virtual void SetStatus(const WorkerStatus& status) = 0;

  virtual size_t num_sequences() const = 0;  // that routers wait for
  virtual size_t num_routers() const = 0;
  virtual uint64_t num_ghosts() const = 0;  // cancelled so far: their routers did not know them
  // Ends all streams: those that still write have until `grace` is over. Idempotent.
  virtual void Shutdown(Duration grace) = 0;
};

}  // namespace choir
