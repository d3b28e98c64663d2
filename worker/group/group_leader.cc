#include "worker/group/group_leader.h"

#include <algorithm>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr uint64_t kEpochMax = uint64_t{1} << 62;  // far above any clock, far below an overflow

}  // namespace

GroupLeader::GroupLeader(GroupLeaderOptions options)
    : options_(std::move(options)), highest_seen_(options_.first_epoch - 1) {
  CHOIR_CHECK(options_.leader.group_size >= 1 && options_.first_epoch >= 1);
}

Status GroupLeader::Check(const MemberHello& hello) const {
  const MemberHello& want = options_.leader;
  const std::string who =
      fmt::format("rank {} at {} (process {})", hello.rank, hello.address, hello.pid);
  if (hello.protocol_version != want.protocol_version) {
    return FailedPrecondition(
        "{} speaks protocol {} (build {}), its leader {} (build {}); run one version", who,
        hello.protocol_version, hello.build, want.protocol_version, want.build);
  }
  if (hello.group != want.group) {
    return FailedPrecondition(
        "{} belongs to group {}, this is the leader of group {}; check --leader", who, hello.group,
        want.group);
  }
  if (hello.group_size != want.group_size || hello.rank >= want.group_size) {
    return FailedPrecondition("{} counts {} ranks, its leader {}; check --ranks and --rank", who,
                              hello.group_size, want.group_size);
  }
  CHOIR_RETURN_IF_ERROR(CheckNumerics(hello, who));
  if (hello.placement != want.placement) {
    return FailedPrecondition(
        "{} has redundant experts {}, its leader {}; give all ranks the same --redundant-experts, "
        "--expert-cover and --placement-steps",
        who, hello.placement, want.placement);
  }
  if (hello.last_epoch >= kEpochMax) {
    return InvalidArgument("{} claims to have seen epoch {}", who, hello.last_epoch);
  }
  return absl::OkStatus();
}

// What can change a bit of an answer; the most telling difference is named.
Status GroupLeader::CheckNumerics(const MemberHello& hello, const std::string& who) const {
  const MemberHello& want = options_.leader;
  const auto differs = [&](const char* what, const std::string& has, const std::string& leads,
                           const char* remedy) {
    return FailedPrecondition("{} has {} {}, its leader {}; {}", who, what, has, leads, remedy);
  };
  if (hello.build != want.build) {
    return differs("version", hello.build, want.build, "run one version in a group");
  }
  if (hello.model != want.model) {
    return differs("model", hello.model, want.model,
                   "give all ranks the same --model and --model-name");
  }
  if (hello.dtype != want.dtype) {
    return differs("dtype", hello.dtype, want.dtype, "give all ranks the same --dtype");
  }
  if (hello.kernels != want.kernels) {
    return differs(
        "kernels", hello.kernels, want.kernels,
        "give all ranks a --cpu-path, or --cuda-kernels, that every machine of the group "
        "has, and the same --f8-rows, --cpu-experts (a number) and --expert-hotness");
  }
  if (hello.numerics_id != want.numerics_id) {
    return differs("numerics id", hello.numerics_id, want.numerics_id,
                   "the weights differ: all ranks need the same files under --model");
  }
  return absl::OkStatus();
}

GroupLeader::Member* GroupLeader::Find(MemberId id) {
  for (auto& [rank, member] : members_) {
    if (member.id == id) return &member;
  }
  return nullptr;
}

GroupActions GroupLeader::OnJoin(MemberId id, const MemberHello& hello, MonoTime now) {
  GroupActions out;
  if (const Status fits = Check(hello); !fits.ok()) {
    out.push_back(RefuseMember{id, fits});
    const bool missing = hello.rank < options_.leader.group_size && !members_.contains(hello.rank);
    if (missing) refused_[hello.rank] = MessageOf(fits);
    Tell(&out);
    return out;
  }
  refused_.erase(hello.rank);
  const auto old = members_.find(hello.rank);
  if (old != members_.end()) {
    const MemberHello& there = old->second.hello;
    if (there.incarnation > hello.incarnation) {
      out.push_back(RefuseMember{
          id, AlreadyExists(
                  "rank {} is taken by a process started later (process {} at {}); this one ends",
                  hello.rank, there.pid, there.address)});
      return out;
    }
    out.push_back(
        RefuseMember{old->second.id, AlreadyExists("rank {} was taken over by process {} at {}",
                                                   hello.rank, hello.pid, hello.address)});
    End(fmt::format("rank {} came back", hello.rank), now, &out);
    members_.erase(old);
  }
  if (members_.empty()) next_beat_ = now + options_.heartbeat_timeout / kBeatsPerTimeout;
  members_[hello.rank] = Member{.id = id, .hello = hello, .heard = now};
  highest_seen_ = std::max(highest_seen_, hello.last_epoch);
  not_before_ = now;  // a new member is news: do not wait for the back-off of the old ones
  PlanIfComplete(now, &out);
  told_waiting_ = "?";  // the new member has to hear it too
  Tell(&out);
  return out;
}

GroupActions GroupLeader::OnLeft(MemberId id, MonoTime now) {
  GroupActions out;
  const Member* member = Find(id);
  if (member == nullptr) return out;  // refused or replaced before
  Lose(id, fmt::format("rank {} left", member->hello.rank), now, &out);
  Tell(&out);
  return out;
}

void GroupLeader::Lose(MemberId id, const std::string& reason, MonoTime now, GroupActions* out) {
  members_.erase(Find(id)->hello.rank);
  End(reason, now, out);
}

void GroupLeader::OnHeard(MemberId id, MonoTime now) {
  if (Member* member = Find(id); member != nullptr) member->heard = now;
}

GroupActions GroupLeader::OnEndpoint(MemberId id, uint64_t epoch, const ExchangeEndpoint& endpoint,
                                     MonoTime /*now*/) {
  GroupActions out;
  Member* member = Find(id);
  const bool expected = member != nullptr && phase_ == Phase::kForming && epoch == epoch_;
  if (!expected || member->endpoint.has_value()) return out;
  member->endpoint = endpoint;
  ConnectEpoch connect{.epoch = epoch_};
  for (const auto& [rank, m] : members_) {
    if (!m.endpoint.has_value()) return out;
    connect.endpoints.push_back(*m.endpoint);
  }
  out.push_back(std::move(connect));
  return out;
}

GroupActions GroupLeader::OnReady(MemberId id, uint64_t epoch, MonoTime /*now*/) {
  GroupActions out;
  Member* member = Find(id);
  if (member == nullptr || phase_ != Phase::kForming || epoch != epoch_) return out;
  member->ready = true;
  const bool all =
      std::all_of(members_.begin(), members_.end(), [](const auto& m) { return m.second.ready; });
  if (all) {
    phase_ = Phase::kRunning;
    failed_in_a_row_ = 0;
    out.push_back(StartEpoch{epoch_});
  }
  Tell(&out);
  return out;
}

GroupActions GroupLeader::OnFailed(MemberId id, uint64_t epoch, const std::string& reason,
                                   MonoTime now) {
  GroupActions out;
  const Member* member = Find(id);
  if (member == nullptr || phase_ == Phase::kIncomplete || epoch != epoch_) return out;
  End(fmt::format("rank {}: {}", member->hello.rank, reason), now, &out);
  PlanIfComplete(now, &out);
  Tell(&out);
  return out;
}

GroupActions GroupLeader::OnDrain(MemberId id, DrainStage stage, MonoTime /*now*/) {
  GroupActions out;
  if (Member* member = Find(id); member != nullptr) member->drain = stage;
  Tell(&out);
  return out;
}

void GroupLeader::LookForSilentMembers(MonoTime now, GroupActions* out) {
  if (members_.empty() || now < next_beat_) return;
  // Who was stopped itself has not listened: what its members said is still to be read.
  const bool overslept = now - next_beat_ > options_.heartbeat_timeout / 2;
  next_beat_ = now + options_.heartbeat_timeout / kBeatsPerTimeout;
  std::vector<Member> silent;
  for (auto& [rank, member] : members_) {
    if (overslept) member.heard = now;
    if (now - member.heard >= options_.heartbeat_timeout) silent.push_back(member);
  }
  for (const Member& member : silent) {
    const std::string reason = fmt::format(
        "rank {} at {} was silent for {:.1f} s: its process is stopped or its host is "
        "cut off",
        member.hello.rank, member.hello.address, Seconds(now - member.heard));
    out->push_back(RefuseMember{member.id, DeadlineExceeded("{}", reason)});
    Lose(member.id, reason, now, out);
  }
  out->push_back(BeatLeader{});
}

GroupActions GroupLeader::OnTick(MonoTime now) {
  GroupActions out;
  LookForSilentMembers(now, &out);
  if (phase_ == Phase::kForming && now >= deadline_) {
    End(fmt::format("gave up after {:.0f} s waiting for {}", Seconds(options_.setup_timeout),
                    WaitingFor()),
        now, &out);
  }
  PlanIfComplete(now, &out);
  Tell(&out);
  return out;
}

std::optional<MonoTime> GroupLeader::next_tick() const {
  if (members_.empty()) return std::nullopt;
  if (phase_ == Phase::kForming) return std::min(next_beat_, deadline_);
  if (phase_ == Phase::kIncomplete && members_.size() == options_.leader.group_size) {
    return std::min(next_beat_, not_before_);
  }
  return next_beat_;
}

void GroupLeader::End(const std::string& reason, MonoTime now, GroupActions* out) {
  if (phase_ == Phase::kIncomplete) return;
  // What never started may fail again at once: wait longer each time. What ran re-forms at once.
  not_before_ = now;
  if (phase_ == Phase::kForming) {
    const int doublings = std::min(failed_in_a_row_++, 20);
    not_before_ += std::min(options_.retry_min * (int64_t{1} << doublings), options_.retry_max);
  }
  phase_ = Phase::kIncomplete;
  for (auto& [rank, member] : members_) {
    member.ready = false;
    member.endpoint.reset();
  }
  out->push_back(EndEpoch{epoch_, reason});
}

void GroupLeader::PlanIfComplete(MonoTime now, GroupActions* out) {
  if (phase_ != Phase::kIncomplete || members_.size() < options_.leader.group_size ||
      now < not_before_) {
    return;
  }
  highest_seen_ += 1;
  epoch_ = highest_seen_;
  phase_ = Phase::kForming;
  deadline_ = now + options_.setup_timeout;
  PlanEpoch plan{.plan = {.epoch = epoch_}};
  for (const auto& [rank, member] : members_) plan.plan.members.push_back(member.hello);
  out->push_back(std::move(plan));
}

std::string GroupLeader::WaitingFor() const {
  std::string ranks;
  for (uint32_t r = 0; r < options_.leader.group_size; ++r) {
    const auto there = members_.find(r);
    const bool waits =
        there == members_.end() || (phase_ == Phase::kForming && !there->second.ready);
    if (waits) ranks += fmt::format(" {}", r);
  }
  if (phase_ == Phase::kForming) return fmt::format("ranks{} to set up epoch {}", ranks, epoch_);
  if (ranks.empty()) return "";
  std::string text = "ranks" + ranks;
  for (const auto& [rank, why] : refused_) {
    text += fmt::format("; rank {} was refused: {}", rank, why);
  }
  return text;
}

DrainStage GroupLeader::GroupDrain() const {
  bool leaves = false, empty = true;  // of those who are there: a dead rank holds nothing any more
  for (const auto& [rank, member] : members_) {
    leaves |= member.drain == DrainStage::kRunning || member.drain == DrainStage::kDone;
    empty &= member.drain == DrainStage::kDone || member.drain == DrainStage::kIdle;
  }
  return !leaves ? DrainStage::kNone : empty ? DrainStage::kDone : DrainStage::kRunning;
}

void GroupLeader::Tell(GroupActions* out) {
  const std::string waiting = phase_ == Phase::kForming ? "" : WaitingFor();
  const DrainStage drain = GroupDrain();
  if (waiting == told_waiting_ && drain == told_drain_) return;
  told_waiting_ = waiting;
  told_drain_ = drain;
  out->push_back(TellGroup{waiting, drain});
}

}  // namespace choir
