#include "worker/group/group_member.h"

namespace choir {

GroupMember::GroupMember(MemberHello self, Duration heartbeat_timeout)
    : self_(std::move(self)), heartbeat_timeout_(heartbeat_timeout), reason_("joining the group") {}

MemberActions GroupMember::OnConnected(MonoTime now) {
  MemberActions out;
  Drop("the leader was connected anew", &out);
  heard_ = now;
  next_beat_ = now + heartbeat_timeout_ / kBeatsPerTimeout;
  phase_ = Phase::kJoined;
  reason_ = "joined, waiting for the leader";
  return out;
}

MemberActions GroupMember::OnDisconnected(const std::string& reason) {
  MemberActions out;
  Drop(reason, &out);
  phase_ = Phase::kAway;
  reason_ = reason;
  return out;
}

Status GroupMember::Check(const EpochPlan& plan) const {
  if (plan.members.size() != self_.group_size) {
    return InvalidArgument("the plan of epoch {} names {} ranks, the group has {}", plan.epoch,
                           plan.members.size(), self_.group_size);
  }
  for (size_t r = 0; r < plan.members.size(); ++r) {
    if (plan.members[r].rank != r)
      return InvalidArgument("the plan of epoch {} is out of order", plan.epoch);
  }
  const MemberHello& me = plan.members[self_.rank];
  if (me.incarnation != self_.incarnation || me.pid != self_.pid) {
    return FailedPrecondition("the plan of epoch {} has process {} as rank {}, this is process {}",
                              plan.epoch, me.pid, self_.rank, self_.pid);
  }
  return absl::OkStatus();
}

MemberActions GroupMember::OnPlan(const EpochPlan& plan) {
  MemberActions out;
  if (phase_ == Phase::kAway || plan.epoch <= self_.last_epoch) return out;  // an old leader's word
  Drop(fmt::format("epoch {} follows", plan.epoch), &out);
  self_.last_epoch = plan.epoch;
  if (const Status good = Check(plan); !good.ok()) {
    reason_ = MessageOf(good);
    out.push_back(SendFailed{plan.epoch, reason_});
    return out;
  }
  epoch_ = plan.epoch;
  phase_ = Phase::kOpening;
  reason_ = fmt::format("setting up epoch {}", plan.epoch);
  out.push_back(OpenExchange{plan});
  return out;
}

MemberActions GroupMember::OnOpened(uint64_t epoch, const StatusOr<ExchangeEndpoint>& endpoint) {
  MemberActions out;
  if (phase_ != Phase::kOpening || epoch != epoch_) return out;
  if (!endpoint.ok()) {
    Drop(MessageOf(endpoint.status()), &out);
    out.push_back(SendFailed{epoch, MessageOf(endpoint.status())});
    return out;
  }
  out.push_back(SendEndpoint{epoch, *endpoint});
  return out;
}

MemberActions GroupMember::OnConnect(uint64_t epoch,
                                     const std::vector<ExchangeEndpoint>& endpoints) {
  MemberActions out;
  if (phase_ != Phase::kOpening || epoch != epoch_) return out;
  phase_ = Phase::kConnecting;
  out.push_back(SetUpExchange{epoch, endpoints});
  return out;
}

MemberActions GroupMember::OnSetUp(uint64_t epoch, const Status& status) {
  MemberActions out;
  if (phase_ != Phase::kConnecting || epoch != epoch_) return out;
  if (!status.ok()) {
    Drop(MessageOf(status), &out);
    out.push_back(SendFailed{epoch, MessageOf(status)});
    return out;
  }
  phase_ = Phase::kReady;
  out.push_back(SendReady{epoch});
  return out;
}

MemberActions GroupMember::OnStarted(uint64_t epoch) {
  MemberActions out;
  if (phase_ != Phase::kReady || epoch != epoch_) return out;
  phase_ = Phase::kServing;
  reason_.clear();
  out.push_back(ServeEpoch{epoch});
  return out;
}

MemberActions GroupMember::OnEnded(uint64_t epoch, const std::string& reason) {
  MemberActions out;
  if (epoch_ == 0 || epoch != epoch_) return out;
  Drop(reason, &out);
  return out;
}

MemberActions GroupMember::OnCollectiveFailed(uint64_t epoch, const Status& status) {
  MemberActions out;
  if (epoch_ == 0 || epoch != epoch_) return out;
  Drop(MessageOf(status), &out);
  out.push_back(SendFailed{epoch, MessageOf(status)});
  return out;
}

MemberActions GroupMember::OnTold(const std::string& waiting_for) {
  if (phase_ == Phase::kJoined && !waiting_for.empty()) reason_ = "waiting for " + waiting_for;
  return {};
}

MemberActions GroupMember::OnTick(MonoTime now) {
  MemberActions out;
  if (phase_ == Phase::kAway || now < next_beat_) return out;
  // Who was stopped itself has not listened: what the leader said is still to be read.
  if (now - next_beat_ > heartbeat_timeout_ / 2) heard_ = now;
  next_beat_ = now + heartbeat_timeout_ / kBeatsPerTimeout;
  if (now - heard_ >= heartbeat_timeout_) {
    out.push_back(Reconnect{
        fmt::format("it was silent for {:.1f} s: its process is stopped or its host is cut off",
                    Seconds(now - heard_))});
  } else {
    out.push_back(BeatMember{});
  }
  return out;
}

std::optional<MonoTime> GroupMember::next_tick() const {
  return phase_ == Phase::kAway ? std::nullopt : std::optional(next_beat_);
}

void GroupMember::Drop(const std::string& reason, MemberActions* out) {
  if (epoch_ == 0) return;
  out->push_back(DropEpoch{epoch_, reason});
  epoch_ = 0;
  phase_ = Phase::kJoined;
  reason_ = reason;
}

}  // namespace choir
