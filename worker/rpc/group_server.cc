#include "worker/rpc/group_server.h"

#include <pthread.h>

#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "worker/rpc/convert.h"

namespace choir {
namespace {

constexpr size_t kAskedMax = 1024;
constexpr size_t kMeshBytesMax = 64 << 10, kSegmentBytesMax = 256;
constexpr Duration kIdleWait = std::chrono::hours(1);
const grpc::Status kLeaves(grpc::StatusCode::UNAVAILABLE, "the leader of the group leaves");

}  // namespace

GroupServer::~GroupServer() { Stop(); }

void GroupServer::Lead(GroupLeaderOptions options) {
  std::lock_guard lock(mu_);
  CHOIR_CHECK(!leading_);
  leader_ = std::make_unique<GroupLeader>(std::move(options));
  thread_ = std::jthread([this] {
    pthread_setname_np(pthread_self(), "group");
    Run();
  });
  leading_ = true;
}

void GroupServer::Stop() {
  events_.Close();
  if (thread_.joinable()) thread_.join();
}

void GroupServer::Accept(const std::shared_ptr<Stream>& stream) {
  MemberId id = 0;
  bool leading = false;
  {
    std::lock_guard lock(mu_);
    id = next_id_++;
    leading = leading_;
  }
  auto greeting = std::make_shared<Greeting>();
  // The stream owns its handler: the handler must not own the stream.
  const std::weak_ptr<Stream> weak = stream;
  stream->Start({.on_message =
                     [this, id, weak, greeting](v1::JoinUp& message) {
                       if (const auto self = weak.lock())
                         OnMessage(id, self, greeting.get(), message);
                     },
                 .on_closed =
                     [this, id, greeting] {
                       if (!greeting->done) return;
                       {
                         std::lock_guard lock(mu_);
                         left_.push_back(id);
                       }
                       events_.Wake();
                     }});
  if (!leading)
    stream->Close({grpc::StatusCode::UNAVAILABLE, "the leader of the group is still loading"});
}

void GroupServer::OnMessage(MemberId id, const std::shared_ptr<Stream>& stream, Greeting* greeting,
                            v1::JoinUp& message) {
  if (message.has_hello() == greeting->done) {
    stream->Close({grpc::StatusCode::INVALID_ARGUMENT,
                   greeting->done ? "a second hello" : "the first message has no hello"});
    return;
  }
  if (message.endpoint().mesh().size() > kMeshBytesMax ||
      message.endpoint().segment().size() > kSegmentBytesMax) {
    stream->Close({grpc::StatusCode::INVALID_ARGUMENT, "the endpoint is too long"});
    return;
  }
  const bool first = !greeting->done;
  greeting->done = true;
  bool taken = !first || events_.TryPush(Joined{id, FromWire(message.hello()), stream});
  taken = taken && events_.TryPush(Said{id, std::move(message)});
  if (taken) return;
  stream->Close(events_.closed() ? kLeaves
                                 : grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                "the leader's queue is full"));
}

void GroupServer::Run() {
  while (!events_.closed()) {
    Duration wait = kIdleWait;
    if (const auto tick = leader_->next_tick()) {
      wait = std::max(*tick - clock_.Now(), Duration(std::chrono::milliseconds(1)));
    }
    for (const Event& event : events_.WaitDrain(wait)) Handle(event);
    HandleLeft();  // after the queue: what a stream said came before its end
    const auto tick = leader_->next_tick();
    if (tick && clock_.Now() >= *tick) Do(leader_->OnTick(clock_.Now()));
  }
  for (const auto& [id, stream] : streams_) {
    stream->Close(kLeaves);
  }
  streams_.clear();
}

void GroupServer::Handle(const Event& event) {
  const MonoTime now = clock_.Now();
  if (const auto* joined = std::get_if<Joined>(&event)) {
    // A refused rank tries again and again; once is enough.
    if (asked_.size() > kAskedMax) asked_.clear();  // ranks are what peers say they are
    if (std::exchange(asked_[joined->hello.rank], joined->hello.incarnation) !=
        joined->hello.incarnation) {
      CHOIR_LOG(info, "rank {} (process {} at {}) asks to join", joined->hello.rank,
                joined->hello.pid, joined->hello.address);
    }
    streams_[joined->id] = joined->stream;
    Do(leader_->OnJoin(joined->id, joined->hello, now));
  } else if (const auto* said = std::get_if<Said>(&event)) {
    const v1::JoinUp& message = said->message;
    leader_->OnHeard(said->id, now);
    Do(leader_->OnDrain(said->id, FromWire(message.drain()), now));
    if (message.endpoint_epoch() != 0) {
      Do(leader_->OnEndpoint(said->id, message.endpoint_epoch(), FromWire(message.endpoint()),
                             now));
    }
    if (message.ready_epoch() != 0) Do(leader_->OnReady(said->id, message.ready_epoch(), now));
    if (message.failed_epoch() != 0) {
      Do(leader_->OnFailed(said->id, message.failed_epoch(), message.reason().substr(0, 1024),
                           now));
    }
  }
}

void GroupServer::HandleLeft() {
  std::vector<MemberId> left;
  {
    std::lock_guard lock(mu_);
    left.swap(left_);
  }
  for (const MemberId id : left) {
    streams_.erase(id);
    Do(leader_->OnLeft(id, clock_.Now()));
  }
}

void GroupServer::Do(const GroupActions& actions) {
  for (const GroupAction& action : actions) {
    std::visit([this](const auto& a) { DoOne(a); }, action);
  }
}

void GroupServer::DoOne(const RefuseMember& refused) {
  if (MessageOf(refused.reason) != logged_refusal_) {
    logged_refusal_ = MessageOf(refused.reason);
    CHOIR_LOG(warn, "{}", logged_refusal_);
  }
  const auto found = streams_.find(refused.member);
  if (found == streams_.end()) return;
  found->second->Close(ToWire(refused.reason));
  streams_.erase(found);
}

void GroupServer::DoOne(const PlanEpoch& planned) {
  logged_refusal_.clear();
  v1::JoinDown message;
  ToWire(planned.plan, message.mutable_plan());
  ToAll(std::move(message));
}

void GroupServer::DoOne(const ConnectEpoch& connect) {
  v1::JoinDown message;
  message.mutable_connect()->set_epoch(connect.epoch);
  for (const ExchangeEndpoint& endpoint : connect.endpoints) {
    ToWire(endpoint, message.mutable_connect()->add_endpoints());
  }
  ToAll(std::move(message));
}

void GroupServer::DoOne(const StartEpoch& started) {
  CHOIR_LOG(info, "epoch {} starts", started.epoch);
  v1::JoinDown message;
  message.set_started_epoch(started.epoch);
  ToAll(std::move(message));
}

void GroupServer::DoOne(const EndEpoch& ended) {
  CHOIR_LOG(warn, "epoch {} ends: {}", ended.epoch, ended.reason);
  v1::JoinDown message;
  message.set_ended_epoch(ended.epoch);
  message.set_reason(ended.reason);
  ToAll(std::move(message));
}

void GroupServer::DoOne(const TellGroup& told) {
  drain_ = told.drain;
  v1::JoinDown message;
  message.set_reason(told.waiting_for);
  ToAll(std::move(message));
}

void GroupServer::DoOne(const BeatLeader& /*beat*/) { ToAll({}); }

void GroupServer::ToAll(v1::JoinDown message) {
  message.set_drain(ToWire(drain_));
  for (auto& [id, stream] : streams_) stream->Send(message);
}

}  // namespace choir
