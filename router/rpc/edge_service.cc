#include "router/rpc/edge_service.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>

#include "common/base/log.h"
#include "common/base/version.h"
#include "common/rpc/credentials.h"
#include "common/rpc/refused_stream.h"
#include "router/rpc/convert.h"
#include "router/rpc/write_turn.h"

namespace choir {
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
    const bool due = turn_.Done();
    if (ended_) {
      Finish(status_);
    } else if (due) {
      loop_->Wake();
    }
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
  // What waits for windows; false when that is too much for the request or for all together.
  bool CountHeld(size_t of_request, int64_t change) {
    held_bytes_ += change;
    return of_request <= service_->limits_.held_bytes_max &&
           held_bytes_ <= static_cast<int64_t>(service_->limits_.held_bytes_total_max);
  }
  void Flush();
  void Gone(const grpc::Status& status);
  bool gone() const { return gone_; }

 private:
  void Take();
  void TellAuth(uint64_t id, const std::variant<Principal, RouterCore::Denied>& answer,
                bool with_status);
  bool TakeHello(const v1::EdgeHello& hello);
  void TakeOpen(v1::EdgeOpen&& open);
  void TakeCancel(uint64_t id);
  void End(const grpc::Status& status) {
    std::lock_guard lock(mu_);
    if (std::exchange(ended_, true)) return;
    status_ = status;
    if (!turn_.writing()) Finish(status_);
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
  int64_t held_bytes_ = 0;
  struct Entry {
    std::shared_ptr<Request> request;
    uint64_t core_id = 0;
  };
  std::map<uint64_t, Entry> requests_;  // by the gateway's number; held until their last event left
  std::string gateway_;
  bool has_hello_ = false;
  bool gone_ = false;

  std::mutex mu_;  // guards the following, and StartWrite, StartRead and Finish against each other
  WriteTurn turn_;
  bool ended_ = false;
  grpc::Status status_;
};

// One request's way back to its gateway.
class EdgeService::Request : public ClientStream {
 public:
  Request(std::shared_ptr<Stream> stream, const v1::EdgeOpen& open)
      : stream_(std::move(stream)),
        id_(open.id()),
        echo_(open.has_generate() && open.generate().echo_token_ids()),
        kept_(open.has_attach() || !open.resume_state().empty()),
        limited_(open.window_bytes() != 0),
        window_(static_cast<int64_t>(std::min<uint64_t>(open.window_bytes(), INT64_MAX))) {}
  ~Request() override { DropHeld(); }

  bool Accepted(const AcceptedInfo& info) override {
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    ToProto(info, echo_, event->mutable_accepted());
    return stream_->Count(*event);
  }
  bool Delta(ChoiceDelta delta) override {
    v1::EdgeEvent event;
    event.set_id(id_);
    ToProto(std::move(delta), event.mutable_delta());
    if (held_.empty() && (!limited_ || window_ > 0)) return Send(std::move(event));
    const size_t size = event.ByteSizeLong();
    held_bytes_ += size;
    held_.push_back(std::move(event));
    return stream_->CountHeld(held_bytes_, static_cast<int64_t>(size));
  }
  void Done(const Usage& usage) override {
    v1::EdgeEvent event;
    event.set_id(id_);
    ToProto(usage, event.mutable_done()->mutable_usage());
    End(std::move(event));
  }
  void Fail(const ApiError& error, const FailedInfo& info) override {
    v1::EdgeEvent event;
    event.set_id(id_);
    ToProto(error, info, event.mutable_error());
    if (error.http == 499) DropHeld();  // nobody reads it any more
    End(std::move(event));
  }
  // The client took so much.
  void Grant(uint64_t bytes) {
    constexpr uint64_t kGrantMax = uint64_t{1} << 40;
    window_ += static_cast<int64_t>(std::min(bytes, kGrantMax));
    while (!held_.empty() && window_ > 0) {
      const size_t size = held_.front().ByteSizeLong();
      held_bytes_ -= size;
      stream_->CountHeld(held_bytes_, -static_cast<int64_t>(size));
      Send(std::move(held_.front()));
      held_.pop_front();
    }
    SendLast();
  }
  bool ended() const { return last_.has_value(); }

 private:
  bool Send(v1::EdgeEvent event) {
    window_ -= limited_ ? static_cast<int64_t>(event.ByteSizeLong()) : 0;
    v1::EdgeEvent* to = stream_->AddEvent(id_);
    *to = std::move(event);
    return stream_->Count(*to);
  }
  void DropHeld() {
    stream_->CountHeld(0, -static_cast<int64_t>(held_bytes_));
    held_bytes_ = 0;
    held_.clear();
  }
  void End(v1::EdgeEvent last) {
    last_ = std::move(last);
    SendLast();
  }
  // Behind everything that waits for the window; the end itself takes none.
  void SendLast() {
    if (!last_ || sent_last_ || !held_.empty()) return;
    sent_last_ = true;
    v1::EdgeEvent* event = stream_->AddEvent(id_);
    *event = std::move(*last_);
    stream_->Count(*event);
    if (!kept_) stream_->Forget(id_);  // perhaps destroys this
  }

  const std::shared_ptr<Stream> stream_;
  const uint64_t id_;
  const bool echo_;
  const bool kept_;  // until the gateway says that its client has the end
  const bool limited_;
  int64_t window_;  // what may still be sent; the last event may overdraw it
  std::deque<v1::EdgeEvent> held_;
  size_t held_bytes_ = 0;
  std::optional<v1::EdgeEvent> last_;
  bool sent_last_ = false;
};

void EdgeService::Stream::Take() {
  if (gone_) return;
  if (!has_hello_ && !TakeHello(in_.hello())) return;
  for (const v1::EdgeAuth& auth : in_.auths()) {
    service_->core_->Authenticate(
        auth.bearer(),
        {.source = auth.source(),
         .route = auth.route(),
         .check_rights = auth.check_rights(),
         .model = auth.model(),
         .client_request_id = auth.client_request_id()},
        [weak = weak_from_this(), id = auth.id(),
         status = auth.want_status()](const std::variant<Principal, RouterCore::Denied>& answer) {
          if (const auto self = weak.lock()) self->TellAuth(id, answer, status);
        });
  }
  for (v1::EdgeOpen& open : *in_.mutable_opens()) {
    if (gone_) return;
    TakeOpen(std::move(open));
  }
  for (v1::EdgeOpen& asked : *in_.mutable_explains()) {
    service_->core_->Explain(FromProto(std::move(asked)),
                             [weak = weak_from_this(), id = asked.id()](const auto& explained) {
                               const auto self = weak.lock();
                               if (self && !self->gone_)
                                 self->Count(AddExplained(id, explained, &self->pending_));
                             });
  }
  for (const v1::EdgeCancel& cancel : in_.cancels()) TakeCancel(cancel.id());
  for (const v1::EdgeGrant& grant : in_.grants()) {
    const auto it = requests_.find(grant.id());
    if (it == requests_.end()) continue;
    const std::shared_ptr<Request> keep = it->second.request;
    keep->Grant(grant.bytes());
  }
  std::lock_guard lock(mu_);
  if (!ended_) StartRead(&in_);
}

void EdgeService::Stream::TellAuth(uint64_t id,
                                   const std::variant<Principal, RouterCore::Denied>& answer,
                                   bool with_status) {
  if (gone_) return;
  v1::EdgeAuthResult* result = pending_.add_auths();
  result->set_id(id);
  if (const auto* principal = std::get_if<Principal>(&answer)) {
    result->set_tenant(principal->tenant);
    for (const std::string& model : principal->rights->models) result->add_models(model);
    if (with_status) result->set_status_json(service_->core_->StatusJson(principal->tenant));
  } else {
    const auto& denied = std::get<RouterCore::Denied>(answer);
    ToProto(denied.error, FailedInfo{.audit_receipt = denied.receipt}, result->mutable_error());
  }
  Count(*result);
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
  auto request = std::make_shared<Request>(shared_from_this(), open);
  requests_[id].request = request;
  const uint64_t core_id = open.has_attach()
                               ? service_->core_->Attach(AttachFromProto(open), request)
                               : service_->core_->Open(FromProto(std::move(open)), request);
  const auto it = requests_.find(id);  // not when it has ended already
  if (it != requests_.end()) it->second.core_id = core_id;
}

void EdgeService::Stream::TakeCancel(uint64_t id) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  const Entry entry = it->second;
  // Of one that has ended only its window was waited for, or this.
  if (entry.request->ended()) Forget(id);
  service_->core_->Cancel(entry.core_id, "the client went away", entry.request.get());
}

void EdgeService::Stream::Flush() {
  if (gone_) return;
  if (pending_bytes_ > service_->limits_.pending_bytes_max) {
    CHOIR_LOG(warn, "gateway '{}' does not read: its stream is cut", gateway_);
    Gone(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "this stream is read too slowly"));
    return;
  }
  if (pending_bytes_ == 0 && !pending_.has_welcome()) return;
  std::lock_guard lock(mu_);
  if (ended_ || !turn_.Take()) return;
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
  const std::map<uint64_t, Entry> requests = std::move(requests_);
  requests_.clear();
  for (const auto& [id, entry] : requests) {
    service_->core_->Detach(entry.core_id, entry.request.get());
  }
  service_->streams_.erase(keep);
  End(status);
}

EdgeService::EdgeService(EdgeLimits limits, std::shared_ptr<TlsIdentity> tls, RouterLoop* loop)
    : limits_(limits), tls_(std::move(tls)), loop_(loop) {}
EdgeService::~EdgeService() = default;

grpc::ServerBidiReactor<v1::EdgeUp, v1::EdgeDown>* EdgeService::Connect(
    grpc::CallbackServerContext* context) {
  using Refused = RefusedStream<v1::EdgeUp, v1::EdgeDown>;
  const Status may = CheckCaller(tls_.get(), *context, {kGatewayRole});
  if (!may.ok()) return new Refused(may);
  std::shared_ptr<void> place = loop_->OpenSession();
  if (!place) return new Refused(Unavailable("too many streams are open"));
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
  welcome.set_unfit(core_->unfit());
  ToProto(core_->model_info(), welcome.add_models());
  return welcome;
}

void EdgeService::EachRound() {
  Told now{core_->model_info(), core_->draining(), core_->unfit()};
  if (now != told_) {
    told_ = std::move(now);
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
