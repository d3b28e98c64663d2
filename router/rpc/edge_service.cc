#include "router/rpc/edge_service.h"

#include <map>
#include <mutex>
#include <utility>

#include "common/base/log.h"
#include "common/base/version.h"
#include "router/rpc/convert.h"

namespace choir {
namespace {

class RefusedStream : public grpc::ServerBidiReactor<v1::EdgeUp, v1::EdgeDown> {
 public:
  RefusedStream() {
    Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "too many streams are open"));
  }
  void OnDone() override { delete this; }
};

}  // namespace

class EdgeService::Stream : public grpc::ServerBidiReactor<v1::EdgeUp, v1::EdgeDown>,
                            public std::enable_shared_from_this<EdgeService::Stream> {
 public:
  Stream(EdgeService* service, std::shared_ptr<void> place)
      : service_(service),
        loop_(service->loop_),
        alive_(service->alive_),
        place_(std::move(place)) {
    alive_->Add();
  }

  void Start() {
    self_ = shared_from_this();
    StartRead(&in_);
  }

  // gRPC's threads.
  void OnReadDone(bool ok) override {
    if (ok) {
      loop_->Post([self = shared_from_this()] { self->Take(); });
    } else {
      loop_->Post([self = shared_from_this()] { self->Gone(grpc::Status::OK); });
    }
  }
  void OnWriteDone(bool) override {
    const auto keep = shared_from_this();
    std::lock_guard lock(mu_);
    writing_ = false;
    if (ended_) Finish(status_);
  }
  void OnCancel() override {
    loop_->Post([self = shared_from_this()] { self->Gone(grpc::Status::CANCELLED); });
  }
  void OnDone() override {
    const std::shared_ptr<Alive> alive = alive_;
    self_.reset();  // perhaps the last
    alive->Remove();
  }

  // Owner thread.
  v1::EdgeEvent* AddEvent(uint64_t id) {
    v1::EdgeEvent* event = pending_.add_events();
    event->set_id(id);
    return event;
  }
  // After an event was filled in. False when the gateway is too far behind.
  bool Count(const google::protobuf::Message& event) {
    pending_bytes_ += event.ByteSizeLong() + 8;
    return pending_bytes_ <= service_->limits_.pending_bytes_max;
  }
  void Tell(const v1::EdgeWelcome& welcome) {
    if (has_hello_) *pending_.mutable_welcome() = welcome;
  }
  void Forget(uint64_t id) { requests_.erase(id); }
  void Flush();
  void Gone(const grpc::Status& status);
  bool gone() const { return gone_; }

 private:
  void Take();
  bool TakeHello(const v1::EdgeHello& hello);
  void TakeOpen(v1::EdgeOpen&& open);
  void End(const grpc::Status& status) {
    std::lock_guard lock(mu_);
    if (std::exchange(ended_, true)) return;
    status_ = status;
    if (!writing_) Finish(status_);
  }

  EdgeService* const service_;
  RouterLoop* const loop_;
  const std::shared_ptr<Alive> alive_;
  const std::shared_ptr<void> place_;  // among the loop's sessions, as long as a task may hold this
  std::shared_ptr<Stream> self_;       // held by gRPC
  v1::EdgeUp in_;
  v1::EdgeDown out_;

  // Owner thread only.
  v1::EdgeDown pending_;
  size_t pending_bytes_ = 0;
  std::map<uint64_t, uint64_t> requests_;  // gateway's number: core's
  std::string gateway_;
  bool has_hello_ = false;
  bool gone_ = false;

  std::mutex mu_;  // guards the following, and StartWrite, StartRead and Finish against each other
  bool writing_ = false;
  bool ended_ = false;
  grpc::Status status_;
};

// One request's way back to its gateway.
class EdgeService::Request : public ClientStream {
 public:
  Request(std::shared_ptr<Stream> stream, uint64_t id, bool echo)
      : stream_(std::move(stream)), id_(id), echo_(echo) {}

  bool Accepted(const AcceptedInfo& info) override {
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    v1::EdgeAccepted* accepted = event->mutable_accepted();
    accepted->set_request_id(info.request_id);
    accepted->set_seed(info.seed);
    accepted->set_prompt_tokens(static_cast<uint32_t>(info.prompt.size()));
    accepted->set_audit_receipt(info.audit_receipt);
    if (echo_) accepted->mutable_prompt_token_ids()->Add(info.prompt.begin(), info.prompt.end());
    return stream_->Count(*event);
  }
  bool Delta(ChoiceDelta delta) override {
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    ToProto(std::move(delta), event->mutable_delta());
    return stream_->Count(*event);
  }
  void Done(const Usage& usage) override {
    ended_ = true;
    stream_->Forget(id_);
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    ToProto(usage, event->mutable_done()->mutable_usage());
    stream_->Count(*event);
  }
  void Fail(const ApiError& error, const std::string& receipt) override {
    ended_ = true;
    stream_->Forget(id_);
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    ToProto(error, receipt, event->mutable_error());
    stream_->Count(*event);
  }
  bool ended() const { return ended_; }

 private:
  const std::shared_ptr<Stream> stream_;
  const uint64_t id_;
  const bool echo_;
  bool ended_ = false;
};

void EdgeService::Stream::Take() {
  if (gone_) return;
  if (!has_hello_ && !TakeHello(in_.hello())) return;
  for (const v1::EdgeAuth& auth : in_.auths()) {
    v1::EdgeAuthResult* result = pending_.add_auths();
    result->set_id(auth.id());
    if (const auto principal = service_->core_->Authenticate(auth.bearer())) {
      result->set_tenant(principal->tenant);
    } else {
      ToProto(InvalidKey(), "", result->mutable_error());
    }
    Count(*result);
  }
  for (v1::EdgeOpen& open : *in_.mutable_opens()) {
    if (gone_) return;
    TakeOpen(std::move(open));
  }
  for (const v1::EdgeCancel& cancel : in_.cancels()) {
    const auto it = requests_.find(cancel.id());
    if (it != requests_.end()) service_->core_->Cancel(it->second, "the client went away");
  }
  std::lock_guard lock(mu_);
  if (!ended_) StartRead(&in_);
}

bool EdgeService::Stream::TakeHello(const v1::EdgeHello& hello) {
  if (hello.protocol_version() != kProtocolVersion) {
    const std::string message = fmt::format(
        "gateway '{}' (build {}) speaks protocol {}, this router {}: run the same release",
        hello.gateway(), hello.build(), hello.protocol_version(), kProtocolVersion);
    CHOIR_LOG(error, "refused: {}", message);
    Gone(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, message));
    return false;
  }
  gateway_ = hello.gateway();
  has_hello_ = true;
  CHOIR_LOG(info, "gateway '{}' connected", gateway_);
  Tell(service_->Welcome());
  return true;
}

void EdgeService::Stream::TakeOpen(v1::EdgeOpen&& open) {
  const uint64_t id = open.id();
  if (requests_.contains(id)) {
    Gone(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                      fmt::format("request number {} is open already in this stream", id)));
    return;
  }
  const bool echo = open.has_generate() && open.generate().echo_token_ids();
  auto request = std::make_shared<Request>(shared_from_this(), id, echo);
  const uint64_t core_id = service_->core_->Open(FromProto(std::move(open)), request);
  if (!request->ended()) requests_[id] = core_id;
}

void EdgeService::Stream::Flush() {
  if (gone_) return;
  if (pending_bytes_ > service_->limits_.pending_bytes_max) {
    CHOIR_LOG(warn, "gateway '{}' does not read: its stream is cut", gateway_);
    Gone(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "this stream is read too slowly"));
    return;
  }
  if (pending_.events().empty() && pending_.auths().empty() && !pending_.has_welcome()) return;
  std::lock_guard lock(mu_);
  if (writing_ || ended_) return;
  writing_ = true;
  out_.Clear();
  out_.Swap(&pending_);
  pending_bytes_ = 0;
  StartWrite(&out_);
}

// The stream ends from either side: nobody is left to read its answers.
void EdgeService::Stream::Gone(const grpc::Status& status) {
  if (std::exchange(gone_, true)) return;
  if (has_hello_) CHOIR_LOG(info, "gateway '{}' disconnected", gateway_);
  const auto keep = shared_from_this();
  const std::map<uint64_t, uint64_t> requests = std::move(requests_);
  requests_.clear();
  for (const auto& [id, core_id] : requests) {
    service_->core_->Cancel(core_id, "the gateway's stream ended");
  }
  service_->streams_.erase(keep);
  End(status);
}

EdgeService::EdgeService(EdgeLimits limits, RouterLoop* loop) : limits_(limits), loop_(loop) {}
EdgeService::~EdgeService() = default;

grpc::ServerBidiReactor<v1::EdgeUp, v1::EdgeDown>* EdgeService::Connect(
    grpc::CallbackServerContext*) {
  std::shared_ptr<void> place = loop_->OpenSession();
  if (!place) return new RefusedStream;
  auto stream = std::make_shared<Stream>(this, std::move(place));
  loop_->Post([this, stream] {
    if (closed_) {
      stream->Gone(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this router is going down"));
    } else if (!stream->gone()) {
      streams_.insert(stream);
    }
  });
  stream->Start();
  return stream.get();
}

v1::EdgeWelcome EdgeService::Welcome() const {
  v1::EdgeWelcome welcome;
  welcome.set_protocol_version(kProtocolVersion);
  welcome.set_router(core_->settings().router_id);
  welcome.set_draining(core_->draining());
  ToProto(core_->model_info(), welcome.add_models());
  return welcome;
}

void EdgeService::EachRound() {
  RouterCore::ModelInfo model = core_->model_info();
  if (model != told_model_ || core_->draining() != told_draining_) {
    told_model_ = std::move(model);
    told_draining_ = core_->draining();
    for (const auto& stream : streams_) stream->Tell(Welcome());
  }
  const auto streams = streams_;  // a flush may end one
  for (const auto& stream : streams) stream->Flush();
}

void EdgeService::Close() {
  closed_ = true;
  const auto streams = streams_;
  for (const auto& stream : streams) {
    stream->Gone(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this router is going down"));
  }
}

}  // namespace choir
