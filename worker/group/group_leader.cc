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
  if (hello.numerics_id != want.numerics_id) {
    return FailedPrecondition(
        "{} has numerics id {}, its leader {}; all ranks need the same --model, --dtype and "
        "--cpu-path",
        who, hello.numerics_id, want.numerics_id);
  }
  if (hello.last_epoch >= kEpochMax) {
    return InvalidArgument("{} claims to have seen epoch {}", who, hello.last_epoch);
  }
  if (hello.host != want.host) {
    return FailedPrecondition(
        "{} runs on {}, its leader on {}; the ranks of a group share memory: run them "
        "on one host and in one PID namespace",
        who, hello.host, want.host);
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
    return out;
  }
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
  members_[hello.rank] = Member{.id = id, .hello = hello};
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
  const uint32_t rank = member->hello.rank;
  members_.erase(rank);
  End(fmt::format("rank {} left", rank), now, &out);
  Tell(&out);
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

GroupActions GroupLeader::OnPlanFailed(uint64_t epoch, const Status& reason, MonoTime now) {
  GroupActions out;
  if (phase_ != Phase::kForming || epoch != epoch_) return out;
  End(MessageOf(reason), now, &out);
  Tell(&out);
  return out;
}

GroupActions GroupLeader::OnDrain(MemberId id, DrainStage stage, MonoTime /*now*/) {
  GroupActions out;
  if (Member* member = Find(id); member != nullptr) member->drain = stage;
  Tell(&out);
  return out;
}

GroupActions GroupLeader::OnTick(MonoTime now) {
  GroupActions out;
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
  if (phase_ == Phase::kForming) return deadline_;
  if (phase_ == Phase::kIncomplete && members_.size() == options_.leader.group_size)
    return not_before_;
  return std::nullopt;
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
  for (auto& [rank, member] : members_) member.ready = false;
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
  return ranks.empty() ? "" : "ranks" + ranks;
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
