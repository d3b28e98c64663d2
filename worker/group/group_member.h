// A rank's view of its group: which epoch it serves. A pure state machine; the adapter
// (worker/rpc/group_client.h) does its actions in order. Owner thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/status.h"
#include "worker/group/membership.h"

namespace choir {

struct OpenExchange {  // make this rank's side of it, then call OnOpened
  EpochPlan plan;
};
struct SendEndpoint {
  uint64_t epoch;
  ExchangeEndpoint endpoint;
};
struct SetUpExchange {  // connect all sides, then call OnSetUp
  uint64_t epoch;
  std::vector<ExchangeEndpoint> endpoints;  // by rank
};
struct SendReady {
  uint64_t epoch;
};
struct SendFailed {
  uint64_t epoch;
  std::string reason;
};
struct ServeEpoch {  // give the exchange that was set up to the engine
  uint64_t epoch;
};
struct DropEpoch {  // kill the exchange, take it from the engine
  uint64_t epoch;
  std::string reason;
};
struct BeatMember {};  // a sign of life to the leader
struct Reconnect {     // the leader is silent: cut the stream, call OnDisconnected
  std::string reason;
};
using MemberAction = std::variant<OpenExchange, SendEndpoint, SetUpExchange, SendReady, SendFailed,
                                  ServeEpoch, DropEpoch, BeatMember, Reconnect>;
using MemberActions = std::vector<MemberAction>;

class GroupMember {
 public:
  explicit GroupMember(MemberHello self, Duration heartbeat_timeout = kHeartbeatTimeout);

  // What to introduce oneself with now: `last_epoch` is kept up to date.
  const MemberHello& hello() const { return self_; }

  MemberActions OnConnected(MonoTime now);
  MemberActions OnDisconnected(const std::string& reason);
  MemberActions OnPlan(const EpochPlan& plan);
  MemberActions OnOpened(uint64_t epoch, const StatusOr<ExchangeEndpoint>& endpoint);
  MemberActions OnConnect(uint64_t epoch, const std::vector<ExchangeEndpoint>& endpoints);
  MemberActions OnSetUp(uint64_t epoch, const Status& status);
  MemberActions OnStarted(uint64_t epoch);
  MemberActions OnEnded(uint64_t epoch, const std::string& reason);
  MemberActions OnCollectiveFailed(uint64_t epoch, const Status& status);
  MemberActions OnTold(const std::string& waiting_for);
  void OnHeard(MonoTime now) { heard_ = now; }  // any message of the leader
  MemberActions OnTick(MonoTime now);
  std::optional<MonoTime> next_tick() const;

  bool serving() const { return phase_ == Phase::kServing; }
  uint64_t epoch() const { return epoch_; }              // served or being set up; 0: none
  const std::string& reason() const { return reason_; }  // why it is not serving; "" when it is

 private:
  enum class Phase { kAway, kJoined, kOpening, kConnecting, kReady, kServing };
  void Drop(const std::string& reason, MemberActions* out);
  Status Check(const EpochPlan& plan) const;

  MemberHello self_;
  Duration heartbeat_timeout_;
  MonoTime heard_{};
  MonoTime next_beat_{};
  Phase phase_ = Phase::kAway;
  uint64_t epoch_ = 0;
  std::string reason_;
};

}  // namespace choir
