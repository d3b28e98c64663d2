// A rank's membership: stays joined to its leader (itself included, for rank 0), reconnects for
// ever, sets up each epoch's collectives and hands them over. No gRPC in this header. Owner thread
// "member", on which all hooks are called; a second thread only reads the stream, a third connects
// an epoch's exchange.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/tls/tls_identity.h"
#include "worker/comm/collectives.h"
#include "worker/group/membership.h"

namespace choir {

struct GroupStatus {
  bool serving = false;
  uint64_t epoch = 0;  // served; 0: none
  std::string reason;  // why not serving
  DrainStage group_drain = DrainStage::kNone;
  bool operator==(const GroupStatus&) const = default;
};

struct GroupClientOptions {
  std::string leader;  // host:port
  MemberHello self;
  std::shared_ptr<TlsIdentity> tls;  // null: plain text
  TlsOptions tls_options;
  CollectivesOptions collectives;  // ring_bytes: of the memory that this rank may have to make
  // This machine's address for ranks of other hosts; asked only when the group has some.
  std::function<StatusOr<std::string>()> mesh_address;
  std::function<Status(std::unique_ptr<Collectives>*)> join_devices;  // see ExchangeOptions
  Duration heartbeat_timeout = kHeartbeatTimeout;
  Duration retry_min = std::chrono::milliseconds(50);
  Duration retry_max = std::chrono::milliseconds(500);

  std::function<void(std::shared_ptr<Collectives>)> on_epoch;  // nullptr: the epoch is over
  std::function<void(const GroupStatus&)> on_status;           // whenever it changes
};

class GroupClient {
 public:
  static std::unique_ptr<GroupClient> Start(GroupClientOptions options);
  virtual ~GroupClient() = default;  // leaves the group

  // Any thread.
  virtual void CollectiveFailed(uint64_t generation, const Status& status) = 0;
  virtual void SetDrain(DrainStage stage) = 0;  // of this rank
};

}  // namespace choir
