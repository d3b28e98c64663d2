#include "router/rpc/worker_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <mutex>
#include <set>
#include <utility>

#include "choir/v1/worker.grpc.pb.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "common/rpc/credentials.h"
#include "router/rpc/convert.h"
#include "router/rpc/write_turn.h"

namespace choir {
namespace {

// A step's tokens of all sequences with their log probabilities are far below.
constexpr int kReceiveBytesMax = 64 << 20;

}  // namespace

struct WorkerClient::Received {
  Status good;  // otherwise nothing of it counts
  std::optional<WorkerIdentity> hello;
  std::optional<WorkerStateReport> state;
  std::optional<StepReport> step;
  uint32_t ghosts = 0;
};

// One stream of one connection. Lives until gRPC is done with it; the link may let go of it
// earlier.
class WorkerClient::Stream : public grpc::ClientBidiReactor<v1::ToWorker, v1::FromWorker>,
                             public std::enable_shared_from_this<WorkerClient::Stream> {
 public:
  Stream(WorkerClient* client, WorkerIndex worker, uint64_t connection, const std::string& address,
         const std::shared_ptr<grpc::ChannelCredentials>& credentials)
      : client_(client),
        loop_(client->loop_),
        alive_(client->alive_),
        worker_(worker),
        connection_(connection),
        pending_bytes_max_(client->limits_.pending_bytes_max) {
    grpc::ChannelArguments args;
    // A fresh connection each time: no pauses but our own.
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    args.SetMaxReceiveMessageSize(kReceiveBytesMax);
    args.SetMaxSendMessageSize(-1);
    args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
    args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
    args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    channel_ = grpc::CreateCustomChannel(address, credentials, args);
    stub_ = v1::Worker::NewStub(channel_);
  }

  void Start(v1::ToWorker hello) {
    self_ = shared_from_this();
    client_->alive_->Add();
    stub_->async()->Connect(&context_, this);
    AddHold();  // writes and reads are started from outside of reactions
    (void)turn_.Take();
    out_ = std::move(hello);
    StartWrite(&out_);
    StartRead(&in_);
    StartCall();
  }

  // Gathers; Flush sends.
  v1::ToWorker& pending() { return pending_; }
  bool Flush() {
    std::lock_guard lock(mu_);
    if (pending_.submits().empty() && pending_.cancels().empty() && !pending_.has_reconcile()) {
      return true;
    }
    if (ended_) return false;
    if (!turn_.Take()) return pending_.ByteSizeLong() <= pending_bytes_max_;
    out_.Clear();
    out_.Swap(&pending_);
    StartWrite(&out_);
    return true;
  }
  void ReadNext() {
    std::lock_guard lock(mu_);
    if (!ended_) StartRead(&in_);
  }
  // Ends it also when no operation is under way whose failure would.
  void Cut() {
    const auto keep = shared_from_this();
    std::lock_guard lock(mu_);
    EndLocked();
  }
  void Forget() { forgotten_ = true; }

  void OnWriteDone(bool ok) override {
    const auto keep = shared_from_this();  // the end may come while the lock is held
    std::lock_guard lock(mu_);
    const bool due = turn_.Done();
    if (!ok) {
      EndLocked();
    } else if (due) {
      loop_->Wake();
    }
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      const auto keep = shared_from_this();
      std::lock_guard lock(mu_);
      cut_at_read_ = !ended_;
      EndLocked();
      return;
    }
    Received received;
    if (in_.has_hello()) vocab_size_ = in_.hello().vocab_size();
    received.good = CheckFromWorker(in_, vocab_size_);
    if (in_.has_hello()) received.hello = FromProto(in_.hello());
    if (in_.has_state()) received.state = FromProto(in_.state());
    if (in_.has_step()) received.step = FromProto(in_.step());
    received.ghosts = in_.ghosts();
    loop_->Post([self = shared_from_this(), r = std::make_shared<Received>(std::move(received))] {
      if (self->forgotten_) return;
      self->client_->OnReceived(self->worker_, self->connection_, std::move(*r));
    });
  }
  void OnDone(const grpc::Status& status) override {
    const std::string reason = WhyEnded(status);
    const std::shared_ptr<Alive> alive = alive_;
    loop_->Post([self = std::move(self_), reason] {
      if (!self->forgotten_) self->client_->OnEnded(self->worker_, self->connection_, reason);
    });
    alive->Remove();  // from here on the loop may be gone
  }

 private:
  std::string WhyEnded(const grpc::Status& status) {
    if (status.ok()) return "the worker ended the stream";
    std::lock_guard lock(mu_);
    // Nothing but us ended it, because what came could not be read.
    const bool from_there = status.error_message().find("RST_STREAM") != std::string::npos;
    if (cut_at_read_ && status.error_code() == grpc::StatusCode::CANCELLED && !from_there) {
      return "it sent bytes that are no message of the protocol; is it a worker of this release?";
    }
    return status.error_message();
  }
  void EndLocked() {
    if (std::exchange(ended_, true)) return;
    context_.TryCancel();
    RemoveHold();
  }

  WorkerClient* const client_;  // used on the owner thread only, while not forgotten
  RouterLoop* const loop_;
  const std::shared_ptr<Alive> alive_;
  const WorkerIndex worker_;
  const uint64_t connection_;
  const size_t pending_bytes_max_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::shared_ptr<Stream> self_;  // held by gRPC
  v1::FromWorker in_;
  uint32_t vocab_size_ = 0;  // as its hello says; the reading callbacks' own
  v1::ToWorker out_;
  v1::ToWorker pending_;    // owner thread only
  bool forgotten_ = false;  // owner thread only

  std::mutex mu_;  // guards the following, and StartRead and StartWrite against the end
  WriteTurn turn_;
  bool ended_ = false;
  bool cut_at_read_ = false;
};

struct WorkerClient::Link {
  WorkerIndex worker;
  std::string address;
  std::shared_ptr<Stream> stream;  // null: between two connections
  uint64_t connection = 0;
  bool has_hello = false;
  MonoTime due;  // next connection, or the hello
  Duration pause{0};
};

WorkerClient::WorkerClient(std::string router_id, WorkerClientLimits limits, WorkerClientTls tls,
                           RouterLoop* loop, const Clock* clock)
    : router_id_(std::move(router_id)),
      limits_(limits),
      tls_(std::move(tls)),
      loop_(loop),
      clock_(clock) {}

WorkerClient::~WorkerClient() { Close(); }

void WorkerClient::SetAddresses(const std::vector<std::string>& addresses) {
  const std::set<std::string> wanted(addresses.begin(), addresses.end());
  for (auto it = links_.begin(); it != links_.end();) {
    if (wanted.contains(it->second->address)) {
      ++it;
      continue;
    }
    const WorkerIndex worker = it->first;
    if (it->second->stream) {
      it->second->stream->Forget();
      it->second->stream->Cut();
    }
    it = links_.erase(it);
    core_->RemoveWorker(worker);
  }
  for (const std::string& address : wanted) {
    const WorkerIndex worker = core_->AddWorker(address);
    std::unique_ptr<Link>& link = links_[worker];
    if (link) continue;
    link = std::make_unique<Link>();
    link->worker = worker;
    link->address = address;
    link->due = clock_->Now();
  }
}

void WorkerClient::Connect(Link& link) {
  link.connection = next_connection_++;
  link.has_hello = false;
  link.due = clock_->Now() + limits_.hello_timeout;
  core_->OnWorkerConnecting(link.worker, link.connection);
  const auto credentials =
      MakeChannelCredentials(tls_.identity, tls_.options, link.address, kWorkerRole);
  if (!credentials.ok()) {
    link.due = clock_->Now() + limits_.refused_retry;
    core_->OnWorkerLost(link.worker, MessageOf(credentials.status()));
    return;
  }
  link.stream =
      std::make_shared<Stream>(this, link.worker, link.connection, link.address, *credentials);
  v1::ToWorker hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_router_id(router_id_);
  hello.mutable_hello()->set_build(kVersion);
  hello.mutable_reconcile();  // nothing of ours runs there any more: all of it is replayed
  link.stream->Start(std::move(hello));
}

void WorkerClient::EachRound() {
  const MonoTime now = clock_->Now();
  for (const auto& [worker, link] : links_) {
    if (closed_) return;
    if (link->stream) {
      if (!link->stream->Flush()) {
        Drop(*link, "it does not take what is sent to it", limits_.backoff_max);
      } else if (!link->has_hello && now >= link->due) {
        Drop(*link, "it sent no hello in time", limits_.backoff_max);
      }
    } else if (now >= link->due) {
      Connect(*link);
    }
  }
}

void WorkerClient::Drop(Link& link, const std::string& reason, Duration pause) {
  link.stream->Forget();
  link.stream->Cut();
  link.stream.reset();
  link.due = clock_->Now() + pause;
  core_->OnWorkerLost(link.worker, reason);
}

// It broke the protocol, and will hardly change by itself.
void WorkerClient::CutOff(Link& link, const std::string& reason) {
  CHOIR_LOG(warn, "worker at {} is cut off: {}", link.address, reason);
  Drop(link, reason, limits_.refused_retry);
}

WorkerClient::Link* WorkerClient::Current(WorkerIndex worker, uint64_t connection) {
  const auto it = links_.find(worker);
  if (it == links_.end() || !it->second->stream || it->second->connection != connection) {
    return nullptr;
  }
  return it->second.get();
}

void WorkerClient::OnReceived(WorkerIndex worker, uint64_t connection, Received received) {
  Link* link = Current(worker, connection);
  if (link == nullptr) return;
  if (!received.good.ok()) return CutOff(*link, MessageOf(received.good));
  if (received.hello && link->has_hello) return CutOff(*link, "it sent a second hello");
  if (received.hello) {
    const Status status = core_->OnWorkerHello(worker, *received.hello);
    if (!status.ok()) {
      Drop(*link, MessageOf(status), limits_.refused_retry);
      return;
    }
    link->has_hello = true;
    link->pause = Duration(0);
  } else if (!link->has_hello) {
    return CutOff(*link, "its first message is no hello");
  }
  if (received.state) core_->OnWorkerState(worker, *received.state);
  if (received.step) core_->OnWorkerStep(worker, *received.step);
  core_->OnWorkerGhosts(worker, received.ghosts);
  link = Current(worker, connection);
  if (link != nullptr) link->stream->ReadNext();
}

void WorkerClient::OnEnded(WorkerIndex worker, uint64_t connection, const std::string& reason) {
  Link* link = Current(worker, connection);
  if (link == nullptr) return;
  link->stream.reset();
  // From nothing to the maximum, half of it random, so that many routers do not come back in step.
  link->due = clock_->Now() + link->pause / 2 + link->pause * (jitter_() % 1000) / 2000;
  link->pause = std::min(limits_.backoff_max, std::max(limits_.backoff_min, link->pause * 2));
  core_->OnWorkerLost(worker, reason);
}

void WorkerClient::Close() {
  closed_ = true;
  for (const auto& [worker, link] : links_) {
    if (!link->stream) continue;
    link->stream->Forget();
    link->stream->Cut();
  }
  links_.clear();
}

void WorkerClient::WaitClosed() { alive_->WaitNone(); }

void WorkerClient::Submit(WorkerIndex worker, SequenceSubmit submit) {
  const auto it = links_.find(worker);
  if (it == links_.end() || !it->second->stream) return;
  v1::ToWorker& pending = it->second->stream->pending();
  // A list that is not sent yet goes with it.
  if (pending.has_reconcile()) pending.mutable_reconcile()->add_ids(submit.id.value());
  ToProto(std::move(submit), pending.add_submits());
}

void WorkerClient::Reconcile(WorkerIndex worker, const std::vector<SequenceId>& ids) {
  const auto it = links_.find(worker);
  if (it == links_.end() || !it->second->stream || !it->second->has_hello) return;
  v1::SequenceList* list = it->second->stream->pending().mutable_reconcile();
  list->clear_ids();
  for (const SequenceId id : ids) list->add_ids(id.value());
}

void WorkerClient::Cancel(WorkerIndex worker, SequenceId id) {
  const auto it = links_.find(worker);
  if (it == links_.end() || !it->second->stream) return;
  it->second->stream->pending().add_cancels(id.value());
}

void WorkerClient::Disconnect(WorkerIndex worker, const std::string& reason) {
  const auto it = links_.find(worker);
  if (it != links_.end() && it->second->stream) Drop(*it->second, reason, limits_.backoff_min);
}

}  // namespace choir
