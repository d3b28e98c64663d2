#include "worker/rpc/group_client.h"

#include <grpcpp/grpcpp.h>
#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "choir/v1/control.grpc.pb.h"
#include "common/base/log.h"
#include "common/rpc/credentials.h"
#include "common/runtime/bounded_queue.h"
#include "worker/comm/exchange_setup.h"
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

  Connection(const std::shared_ptr<grpc::Channel>& channel, OnMessage on_message, OnEnd on_end)
      : stub_(v1::Group::NewStub(channel)), stream_(stub_->Join(&context_)) {
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
  const std::unique_ptr<v1::Group::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::JoinUp, v1::JoinDown>> stream_;
  std::jthread reader_;
};

class GroupClientImpl final : public GroupClient {
 public:
  explicit GroupClientImpl(GroupClientOptions options)
      : options_(std::move(options)),
        member_(options_.self, options_.heartbeat_timeout),
        backoff_(options_.retry_min) {
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
  struct SetUp {
    uint64_t epoch;
    StatusOr<std::unique_ptr<Collectives>> collectives;
  };
  using Event = std::variant<Received, Failed, DrainStage>;

  void Run() {
    while (!events_.closed()) {
      if (connection_ == nullptr && Clock::Real().Now() >= connect_at_) Connect();
      const MonoTime next = connection_ == nullptr
                                ? connect_at_
                                : member_.next_tick().value_or(Clock::Real().Now() + kIdleWait);
      for (const Event& event :
           events_.WaitDrain(std::max(next - Clock::Real().Now(), Duration::zero()))) {
        std::visit([this](const auto& e) { On(e); }, event);
      }
      HandleEnd();
      HandleSetUp();
      Do(member_.OnTick(Clock::Real().Now()));
      Publish();
    }
    Do(member_.OnDisconnected("this rank leaves"));
    EndSetUp();
    connection_.reset();
  }

  // Anew for each connection: after a cut the old one may hang for long, the leader may have got
  // another address, and the certificates may be newer.
  StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel() const {
    CHOIR_ASSIGN_OR_RETURN(
        auto credentials,
        MakeChannelCredentials(options_.tls, options_.tls_options, options_.leader, kWorkerRole));
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(options_.leader, credentials, arguments);
  }

  void Connect() {
    const auto channel = MakeChannel();
    if (!channel.ok()) return Disconnect(MessageOf(channel.status()));
    const uint64_t number = ++connections_;
    connection_ = std::make_unique<Connection>(
        *channel,
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
    Do(member_.OnConnected(Clock::Real().Now()));
    v1::JoinUp hello;
    ToWire(member_.hello(), hello.mutable_hello());
    Send(std::move(hello));
  }

  void On(const Received& received) {
    if (received.connection != connections_ || connection_ == nullptr) return;
    backoff_ = options_.retry_min;
    member_.OnHeard(Clock::Real().Now());
    const v1::JoinDown& message = received.message;
    group_drain_ = FromWire(message.drain());
    if (message.ended_epoch() != 0) {
      Do(member_.OnEnded(message.ended_epoch(), message.reason()));
    } else if (message.has_plan()) {
      Do(member_.OnPlan(FromWire(message.plan())));
    } else if (message.has_connect()) {
      std::vector<ExchangeEndpoint> endpoints;
      for (const v1::Endpoint& endpoint : message.connect().endpoints()) {
        endpoints.push_back(FromWire(endpoint));
      }
      Do(member_.OnConnect(message.connect().epoch(), endpoints));
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
    if (!taken || taken->connection != connections_ || connection_ == nullptr) return;
    Disconnect(taken->status.ok() ? "it closed the stream" : MessageOf(taken->status));
  }

  void Disconnect(const std::string& why) {
    connection_.reset();
    group_drain_ = DrainStage::kNone;
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
  void DoOne(const OpenExchange& open) {
    EndSetUp();
    ExchangeOptions exchange{.rank = static_cast<int>(options_.self.rank),
                             .generation = open.plan.epoch,
                             .mesh_address = options_.mesh_address,
                             .collectives = options_.collectives,
                             .join_devices = options_.join_devices};
    for (const MemberHello& member : open.plan.members) {
      exchange.hosts.push_back(member.host);
      exchange.pids.push_back(member.pid);
    }
    auto opened = ExchangeSetup::Open(std::move(exchange));
    if (!opened.ok()) {
      Do(member_.OnOpened(open.plan.epoch, opened.status()));
      return;
    }
    exchange_ = std::move(*opened);
    if (!exchange_->endpoint().mesh.empty() && !std::exchange(warned_, true)) {
      CHOIR_LOG(warn,
                "the group runs on several hosts: what its ranks exchange between them is not "
                "encrypted, keep it on a private network");
    }
    Do(member_.OnOpened(open.plan.epoch, exchange_->endpoint()));
  }
  void DoOne(const SendEndpoint& endpoint) {
    v1::JoinUp message;
    message.set_endpoint_epoch(endpoint.epoch);
    ToWire(endpoint.endpoint, message.mutable_endpoint());
    Send(std::move(message));
  }
  // On a thread of its own: it may wait for other hosts, and this one's signs of life must go on.
  void DoOne(const SetUpExchange& set_up) {
    connecting_ = std::jthread([this, set_up] {
      pthread_setname_np(pthread_self(), "member-connect");
      SetUp result{set_up.epoch, exchange_->Connect(set_up.endpoints)};
      {
        std::lock_guard lock(mu_);
        set_up_ = std::move(result);
      }
      events_.Wake();
    });
  }
  void HandleSetUp() {
    std::optional<SetUp> taken;
    {
      std::lock_guard lock(mu_);
      taken.swap(set_up_);
    }
    if (!taken) return;
    if (taken->collectives.ok()) collectives_ = std::move(*taken->collectives);
    Do(member_.OnSetUp(taken->epoch, taken->collectives.status()));
  }
  // Everybody has connected, or nobody needs to any more.
  void EndSetUp() {
    if (exchange_ != nullptr) exchange_->GiveUp();
    connecting_ = {};  // joins
    exchange_.reset();
    std::lock_guard lock(mu_);
    set_up_.reset();
  }
  void DoOne(const BeatMember& /*beat*/) { Send({}); }
  void DoOne(const Reconnect& reconnect) { Disconnect(reconnect.reason); }
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
    EndSetUp();
    options_.on_epoch(collectives_);
  }
  void DoOne(const DropEpoch& drop) {
    CHOIR_LOG(warn, "epoch {} is over: {}", drop.epoch, drop.reason);
    EndSetUp();
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
  BoundedQueue<Event> events_{1024};
  // Beside the queue, since they must never be refused by a full one.
  std::mutex mu_;  // guards the next two
  std::optional<Ended> ended_;
  std::optional<SetUp> set_up_;

  // The owner thread's.
  GroupMember member_;
  std::unique_ptr<Connection> connection_;
  uint64_t connections_ = 0;  // so far; tells an old connection's events from the current one's
  MonoTime connect_at_{};
  Duration backoff_;
  std::unique_ptr<ExchangeSetup> exchange_;  // from plan to start of an epoch
  std::jthread connecting_;
  std::shared_ptr<Collectives> collectives_;
  DrainStage drain_ = DrainStage::kNone;
  DrainStage group_drain_ = DrainStage::kNone;
  GroupStatus published_;
  std::string logged_;
  bool warned_ = false;  // that traffic between hosts is not encrypted
  std::jthread thread_;
};

}  // namespace

std::unique_ptr<GroupClient> GroupClient::Start(GroupClientOptions options) {
  return std::make_unique<GroupClientImpl>(std::move(options));
}

}  // namespace choir
