// The leader's view of its group: who is there, which epoch runs. A pure state machine: events and
// the time in, actions out; the adapter (worker/rpc/group_server.h) does them in order.
//
// An epoch is planned when every rank is there, connected when every rank has said where its side
// of the exchange is, started when every rank has set it up, and ended by the loss, the failure or
// the silence of any. Epoch numbers only grow, over restarts of the leader too, and whatever a rank
// says about another epoch than the current one is without effect: that fences off members that
// missed something. Owner thread only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "worker/group/membership.h"

namespace choir {

using MemberId = uint64_t;  // one stream of one rank; never used again

struct RefuseMember {  // end its stream with this status
  MemberId member;
  Status reason;
};
struct PlanEpoch {  // send the plan to every member
  EpochPlan plan;
};
struct ConnectEpoch {  // send the endpoints to every member
  uint64_t epoch;
  std::vector<ExchangeEndpoint> endpoints;  // by rank
};
struct StartEpoch {
  uint64_t epoch;
};
struct EndEpoch {
  uint64_t epoch;
  std::string reason;
};
struct TellGroup {  // what the group waits for ("" when nothing) or its drain stage changed
  std::string waiting_for;
  DrainStage drain;
};
struct BeatLeader {};  // a sign of life to every member
using GroupAction = std::variant<RefuseMember, PlanEpoch, ConnectEpoch, StartEpoch, EndEpoch,
                                 TellGroup, BeatLeader>;
using GroupActions = std::vector<GroupAction>;

struct GroupLeaderOptions {
  MemberHello leader;        // what every rank has to agree with: version, group, size, numerics id
  uint64_t first_epoch = 1;  // from the wall clock (ms), so that it grows over restarts
  Duration setup_timeout = std::chrono::seconds(30);   // from plan to started
  Duration retry_min = std::chrono::milliseconds(50);  // between epochs that never started
  Duration retry_max = std::chrono::seconds(5);
  // A member that was silent for so long is given up; signs of life go out five times as often.
  Duration heartbeat_timeout = kHeartbeatTimeout;
};

class GroupLeader {
 public:
  explicit GroupLeader(GroupLeaderOptions options);

  GroupActions OnJoin(MemberId member, const MemberHello& hello, MonoTime now);
  GroupActions OnLeft(MemberId member, MonoTime now);
  void OnHeard(MemberId member, MonoTime now);  // any message of its stream
  GroupActions OnEndpoint(MemberId member, uint64_t epoch, const ExchangeEndpoint& endpoint,
                          MonoTime now);
  GroupActions OnReady(MemberId member, uint64_t epoch, MonoTime now);
  GroupActions OnFailed(MemberId member, uint64_t epoch, const std::string& reason, MonoTime now);
  GroupActions OnDrain(MemberId member, DrainStage stage, MonoTime now);
  GroupActions OnTick(MonoTime now);

  std::optional<MonoTime> next_tick() const;
  uint64_t epoch() const { return epoch_; }  // the current or last one; 0: none yet
  bool running() const { return phase_ == Phase::kRunning; }
  // "ranks 1 3", "ranks 2 to set up epoch 17", "ranks 1; rank 1 was refused: ...", or "".
  std::string WaitingFor() const;
  size_t num_members() const { return members_.size(); }

 private:
  enum class Phase { kIncomplete, kForming, kRunning };
  struct Member {
    MemberId id;
    MemberHello hello;
    MonoTime heard;
    std::optional<ExchangeEndpoint> endpoint;  // for the current epoch
    bool ready = false;                        // has set up the current epoch
    DrainStage drain = DrainStage::kNone;
  };

  Status Check(const MemberHello& hello) const;
  Status CheckNumerics(const MemberHello& hello, const std::string& who) const;
  Member* Find(MemberId id);
  void Lose(MemberId id, const std::string& reason, MonoTime now, GroupActions* out);
  void LookForSilentMembers(MonoTime now, GroupActions* out);
  void End(const std::string& reason, MonoTime now, GroupActions* out);
  void PlanIfComplete(MonoTime now, GroupActions* out);
  void Tell(GroupActions* out);
  DrainStage GroupDrain() const;

  const GroupLeaderOptions options_;
  std::map<uint32_t, Member> members_;  // by rank
  Phase phase_ = Phase::kIncomplete;
  uint64_t epoch_ = 0;
  uint64_t highest_seen_ = 0;
  MonoTime deadline_{};    // of forming
  MonoTime not_before_{};  // of the next plan
  MonoTime next_beat_{};
  std::map<uint32_t, std::string> refused_;  // why, by rank; until it joins
  int failed_in_a_row_ = 0;
  std::string told_waiting_;
  DrainStage told_drain_ = DrainStage::kNone;
};

}  // namespace choir
