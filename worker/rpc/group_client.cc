#include "worker/rpc/group_client.h"

#include <grpcpp/grpcpp.h>
#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>

#include "choir/v1/control.grpc.pb.h"
#include "common/base/log.h"
#include "common/runtime/bounded_queue.h"
#include "worker/comm/shm_collectives.h"
#include "worker/group/group_member.h"
#include "worker/rpc/convert.h"

namespace choir {
namespace {

constexpr Duration kIdleWait = std::chrono::hours(1);

// One connection to the leader. Read on its own thread, written by the owner thread.
class Connection {
 public:
  using OnMessage = std::function<void(v1::JoinDown)>;
  using OnEnd = std::function<void(Status)>;

  Connection(v1::Group::Stub* stub, OnMessage on_message, OnEnd on_end)
      : stream_(stub->Join(&context_)) {
    reader_ = std::jthread([this, on_message = std::move(on_message), on_end = std::move(on_end)] {
      pthread_setname_np(pthread_self(), "member-read");
      v1::JoinDown message;
      while (stream_->Read(&message)) on_message(std::move(message));
      on_end(FromWire(stream_->Finish()));
    });
  }
  ~Connection() { context_.TryCancel(); }  // then the reader ends and is joined

  void Write(const v1::JoinUp& message) {
    (void)stream_->Write(message);
  }  // its loss is seen by the reader

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::JoinUp, v1::JoinDown>> stream_;
  std::jthread reader_;
};

class GroupClientImpl final : public GroupClient {
 public:
  explicit GroupClientImpl(GroupClientOptions options)
      : options_(std::move(options)), member_(options_.self), backoff_(options_.retry_min) {
    grpc::ChannelArguments arguments;
    // Our own back-off decides; the channel's must not be slower.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Group::NewStub(
        grpc::CreateCustomChannel(options_.leader, grpc::InsecureChannelCredentials(), arguments));
    thread_ = std::jthread([this] {
      pthread_setname_np(pthread_self(), "member");
      Run();
    });
  }
  ~GroupClientImpl() override {
    events_.Close();
    thread_.join();
  }

  void CollectiveFailed(uint64_t generation, const Status& status) override {
    events_.TryPush(Failed{generation, status});
  }
  void SetDrain(DrainStage stage) override { events_.TryPush(stage); }

 private:
  struct Received {
    uint64_t connection;
    v1::JoinDown message;
  };
  struct Ended {
    uint64_t connection;
    Status status;
  };
  struct Failed {
    uint64_t generation;
    Status status;
  };
  using Event = std::variant<Received, Failed, DrainStage>;

  void Run() {
    while (!events_.closed()) {
      if (connection_ == nullptr && Clock::Real().Now() >= connect_at_) Connect();
      const Duration wait = connection_ != nullptr ? kIdleWait : connect_at_ - Clock::Real().Now();
      for (const Event& event : events_.WaitDrain(std::max(wait, Duration::zero()))) {
        std::visit([this](const auto& e) { On(e); }, event);
      }
      HandleEnd();
      Publish();
    }
    Do(member_.OnDisconnected("this rank leaves"));
    connection_.reset();
  }

  void Connect() {
    const uint64_t number = ++connections_;
    connection_ = std::make_unique<Connection>(
        stub_.get(),
        [this, number](v1::JoinDown message) {
          events_.TryPush(Received{number, std::move(message)});
        },
        [this, number](Status status) {
          {
            std::lock_guard lock(mu_);
            ended_ = Ended{number, std::move(status)};
          }
          events_.Wake();
        });
    Do(member_.OnConnected());
    v1::JoinUp hello;
    ToWire(member_.hello(), hello.mutable_hello());
    Send(std::move(hello));
  }

  void On(const Received& received) {
    if (received.connection != connections_ || connection_ == nullptr) return;
    backoff_ = options_.retry_min;
    const v1::JoinDown& message = received.message;
    group_drain_ = FromWire(message.drain());
    if (message.ended_epoch() != 0) {
      Do(member_.OnEnded(message.ended_epoch(), message.reason()));
    } else if (message.has_plan()) {
      Do(member_.OnPlan(FromWire(message.plan())));
    } else if (message.started_epoch() != 0) {
      Do(member_.OnStarted(message.started_epoch()));
    } else {
      Do(member_.OnTold(message.reason()));
    }
  }

  void HandleEnd() {
    std::optional<Ended> taken;
    {
      std::lock_guard lock(mu_);
      taken.swap(ended_);
    }
    if (taken) OnEnded(*taken);
  }

  void OnEnded(const Ended& ended) {
    if (ended.connection != connections_ || connection_ == nullptr) return;
    connection_.reset();
    group_drain_ = DrainStage::kNone;
    const std::string why = ended.status.ok() ? "it closed the stream" : MessageOf(ended.status);
    const std::string reason = fmt::format("leader {}: {}", options_.leader, why);
    if (reason != logged_) CHOIR_LOG(warn, "{}; trying again", reason);
    logged_ = reason;
    Do(member_.OnDisconnected(reason));
    connect_at_ = Clock::Real().Now() + backoff_;
    backoff_ = std::min(backoff_ * 2, options_.retry_max);
  }

  void On(const Failed& failed) {
    Do(member_.OnCollectiveFailed(failed.generation, failed.status));
  }

  void On(const DrainStage& stage) {
    if (stage == drain_) return;
    drain_ = stage;
    Send({});
  }

  void Do(const MemberActions& actions) {
    for (const MemberAction& action : actions) {
      std::visit([this](const auto& a) { DoOne(a); }, action);
    }
  }
  void DoOne(const SetUpExchange& set_up) {
    std::vector<int64_t> pids;
    for (const MemberHello& member : set_up.plan.members) pids.push_back(member.pid);
    auto joined = JoinShmCollectives({.name = set_up.plan.segment,
                                      .rank = static_cast<int>(options_.self.rank),
                                      .generation = set_up.plan.epoch,
                                      .pids = std::move(pids),
                                      .options = options_.collectives});
    if (joined.ok()) collectives_ = std::move(*joined);
    Do(member_.OnSetUp(set_up.plan.epoch, joined.status()));
  }
  void DoOne(const SendReady& ready) {
    v1::JoinUp message;
    message.set_ready_epoch(ready.epoch);
    Send(std::move(message));
  }
  void DoOne(const SendFailed& failed) {
    v1::JoinUp message;
    message.set_failed_epoch(failed.epoch);
    message.set_reason(failed.reason);
    Send(std::move(message));
  }
  void DoOne(const ServeEpoch& serve) {
    CHOIR_LOG(info, "serving epoch {}", serve.epoch);
    logged_.clear();
    options_.on_epoch(collectives_);
  }
  void DoOne(const DropEpoch& drop) {
    CHOIR_LOG(warn, "epoch {} is over: {}", drop.epoch, drop.reason);
    if (collectives_ != nullptr)
      collectives_->Abort(Unavailable("epoch {} ended: {}", drop.epoch, drop.reason));
    collectives_.reset();
    options_.on_epoch(nullptr);
  }

  void Send(v1::JoinUp message) {
    message.set_drain(ToWire(drain_));
    if (connection_ != nullptr) connection_->Write(message);
  }

  void Publish() {
    GroupStatus status{.serving = member_.serving(),
                       .epoch = member_.serving() ? member_.epoch() : 0,
                       .reason = member_.reason(),
                       .group_drain = group_drain_};
    if (status == published_) return;
    published_ = status;
    options_.on_status(status);
  }

  const GroupClientOptions options_;
  std::unique_ptr<v1::Group::Stub> stub_;
  BoundedQueue<Event> events_{1024};
  std::mutex mu_;               // guards ended_
  std::optional<Ended> ended_;  // beside the queue: an end must never be refused by a full queue

  // The owner thread's.
  GroupMember member_;
  std::unique_ptr<Connection> connection_;
  uint64_t connections_ = 0;  // so far; tells an old connection's events from the current one's
  MonoTime connect_at_{};
  Duration backoff_;
  std::shared_ptr<Collectives> collectives_;
  DrainStage drain_ = DrainStage::kNone;
  DrainStage group_drain_ = DrainStage::kNone;
  GroupStatus published_;
  std::string logged_;
  std::jthread thread_;
};

}  // namespace

std::unique_ptr<GroupClient> GroupClient::Start(GroupClientOptions options) {
  return std::make_unique<GroupClientImpl>(std::move(options));
}

}  // namespace choir
