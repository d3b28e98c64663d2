#include "gateway/rpc/edge_client.h"

#include <grpcpp/grpcpp.h>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <map>
#include <mutex>
#include <utility>

#include "choir/v1/edge.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "gateway/rpc/edge_convert.h"

namespace choir {
namespace {

constexpr auto kBackoffMin = std::chrono::milliseconds(50);
constexpr auto kBackoffMax = std::chrono::milliseconds(2000);

ApiError NotConnected(const std::string& reason) {
  return {.http = 503,
          .type = "overloaded_error",
          .code = "not_ready",
          .message = "no router can be reached: " + reason,
          .retry_after_seconds = 1};
}

class EdgeClientImpl;

// One connection's stream. Owned by a shared_ptr that the reactor gives up in OnDone.
class EdgeStream final : public grpc::ClientBidiReactor<v1::EdgeUp, v1::EdgeDown> {
 public:
  using Down = std::function<void(std::shared_ptr<v1::EdgeDown>)>;
  using Ended = std::function<void(std::string, std::shared_ptr<EdgeStream>)>;

  EdgeStream(const std::string& address, Down down, Ended ended)
      : down_(std::move(down)), ended_(std::move(ended)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection each time
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
    stub_ = v1::Edge::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }

  void Start(std::shared_ptr<EdgeStream> self, v1::EdgeUp hello) {
    self_ = std::move(self);
    stub_->async()->Connect(&context_, this);
    AddHold();  // Send() writes from outside a reaction: the call may not end under it
    Send(std::move(hello));
    StartRead(&read_);
    StartCall();
  }

  void Send(v1::EdgeUp message) {
    std::lock_guard lock(mu_);
    if (stopped_) return;
    pending_.MergeFrom(message);
    WriteLocked();
  }
  size_t pending_bytes() {
    std::lock_guard lock(mu_);
    return pending_.ByteSizeLong();
  }
  void Cancel() { context_.TryCancel(); }
  std::future<void> done() { return done_->get_future(); }  // once; after it no callback comes

  void OnReadDone(bool ok) override {
    if (!ok) return StopWriting();
    down_(std::make_shared<v1::EdgeDown>(std::move(read_)));
    read_.Clear();
    StartRead(&read_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mu_);
    writing_ = false;
    if (ok) WriteLocked();
  }
  void OnDone(const grpc::Status& status) override {
    const std::string why = status.ok() ? "the router ended the stream" : status.error_message();
    const std::shared_ptr<std::promise<void>> done = done_;
    const Ended ended = ended_;
    // The stream, and the channel with it, goes on the io thread: not under gRPC's own feet.
    ended(why, std::move(self_));
    done->set_value();
  }

 private:
  // Nothing comes any more: nothing is written any more, and the call may end.
  void StopWriting() {
    {
      std::lock_guard lock(mu_);
      stopped_ = true;
    }
    RemoveHold();
  }
  void WriteLocked() {
    if (stopped_ || writing_ || pending_.ByteSizeLong() == 0) return;
    writing_ = true;
    write_.Clear();
    write_.Swap(&pending_);
    StartWrite(&write_);
  }

  std::unique_ptr<v1::Edge::Stub> stub_;
  grpc::ClientContext context_;
  v1::EdgeDown read_;
  const Down down_;
  const Ended ended_;
  std::shared_ptr<EdgeStream> self_;
  const std::shared_ptr<std::promise<void>> done_ = std::make_shared<std::promise<void>>();
  std::mutex mu_;  // guards what follows
  v1::EdgeUp pending_, write_;
  bool writing_ = false, stopped_ = false;
};

class EdgeClientImpl final : public EdgeClient {
 public:
  EdgeClientImpl(boost::asio::io_context& io, EdgeClientOptions options)
      : io_(io),
        retry_(io),
        options_(std::move(options)),
        alive_(std::make_shared<EdgeClientImpl*>(this)) {
    boost::asio::post(io_, Guarded([](EdgeClientImpl& self) { self.Connect(); }));
  }
  ~EdgeClientImpl() override {
    *alive_ = nullptr;
    if (!stream_) return;
    stream_->Cancel();
    stream_->done().wait();
  }

  bool connected() const override { return welcomed_ && !draining_; }
  std::string reason() const override { return draining_ ? "the router is draining" : reason_; }
  const std::vector<ApiModel>& models() const override { return models_; }

  void Authenticate(std::string bearer, std::string source,
                    std::function<void(ApiError)> done) override {
    if (!welcomed_) return done(NotConnected(reason_));
    const uint64_t id = ++last_id_;
    auths_[id] = std::move(done);
    v1::EdgeUp up;
    v1::EdgeAuth* auth = up.add_auths();
    auth->set_id(id);
    auth->set_bearer(std::move(bearer));
    auth->set_source(std::move(source));
    stream_->Send(std::move(up));
  }

  uint64_t Open(const ApiRequest& request, const EdgeOpenInfo& info,
                std::shared_ptr<EdgeListener> listener) override {
    const uint64_t id = ++last_id_;
    if (!welcomed_ || stream_->pending_bytes() > options_.pending_bytes_max) {
      ApiError error = NotConnected(welcomed_ ? "the stream to it is full" : reason_);
      boost::asio::post(io_, [listener = std::move(listener), error = std::move(error)] {
        listener->OnError(error);
      });
      return id;
    }
    OpenRequest open{.listener = std::move(listener),
                     .message = {},
                     .deadline = Clock::Real().Now() + std::chrono::milliseconds(info.timeout_ms)};
    FillOpen(id, request, info, &open.message);
    v1::EdgeUp up;
    *up.add_opens() = open.message;
    open_.emplace(id, std::move(open));
    stream_->Send(std::move(up));
    return id;
  }

  void Cancel(uint64_t id) override {
    if (open_.erase(id) == 0 || !welcomed_) return;
    v1::EdgeUp up;
    up.add_cancels()->set_id(id);
    stream_->Send(std::move(up));
  }

 private:
  // What it takes to go on at another router: the request itself, and what was delivered of it.
  struct OpenRequest {
    std::shared_ptr<EdgeListener> listener;
    v1::EdgeOpen message;
    MonoTime deadline;
    bool accepted = false;
    std::map<uint32_t, v1::EdgeResumeChoice> delivered;
  };

  // Runs `f(*this)` later on the io thread unless this object is gone by then.
  template <typename F>
  std::function<void()> Guarded(F f) {
    return [alive = alive_, f = std::move(f)] {
      if (*alive != nullptr) f(**alive);
    };
  }

  void Connect() {
    ExpireOpen();
    const std::string& address = options_.routers[next_router_++ % options_.routers.size()];
    const uint64_t generation = ++generation_;
    auto alive = alive_;
    auto& io = io_;
    stream_ = std::make_shared<EdgeStream>(
        address,
        [alive, &io, generation](std::shared_ptr<v1::EdgeDown> message) {
          boost::asio::post(io, [alive, generation, message] {
            if (*alive != nullptr && (*alive)->generation_ == generation)
              (*alive)->OnDown(*message);
          });
        },
        [alive, &io, generation, address](std::string why, std::shared_ptr<EdgeStream> stream) {
          boost::asio::post(io, [alive, generation, address, why, stream = std::move(stream)] {
            if (*alive == nullptr || (*alive)->generation_ != generation) return;
            (*alive)->OnEnded(address + ": " + why);
          });
        });
    v1::EdgeUp hello;
    hello.mutable_hello()->set_protocol_version(kProtocolVersion);
    hello.mutable_hello()->set_gateway(options_.name);
    hello.mutable_hello()->set_build(kVersion);
    stream_->Start(stream_, std::move(hello));
  }

  void OnDown(const v1::EdgeDown& down) {
    if (down.has_welcome()) OnWelcome(down.welcome());
    for (const auto& result : down.auths()) {
      const auto it = auths_.find(result.id());
      if (it == auths_.end()) continue;
      auto done = std::move(it->second);
      auths_.erase(it);
      done(result.has_error() ? ToApiError(result.error()) : ApiError{});
    }
    for (const auto& event : down.events()) OnEvent(event);
  }

  void OnWelcome(const v1::EdgeWelcome& welcome) {
    if (welcome.protocol_version() != kProtocolVersion) {
      reason_ = fmt::format(
          "router {} speaks wire version {}, this gateway speaks {}: run the same version of both",
          welcome.router(), welcome.protocol_version(), kProtocolVersion);
      CHOIR_LOG(error, "{}", reason_);
      return stream_->Cancel();
    }
    if (!welcomed_) CHOIR_LOG(info, "connected to router {}", welcome.router());
    const bool first = !std::exchange(welcomed_, true);
    draining_ = welcome.draining();
    backoff_ = kBackoffMin;
    models_.clear();
    for (const auto& m : welcome.models()) {
      models_.push_back({m.id(), m.created(), m.context_length()});
    }
    if (first && !open_.empty()) Reattach();
  }

  // Opens again what the lost router had: a request that was accepted goes on behind what was
  // delivered, the others begin anew.
  void Reattach() {
    CHOIR_LOG(info, "going on with {} requests", open_.size());
    const MonoTime now = Clock::Real().Now();
    v1::EdgeUp up;
    for (auto& [id, open] : open_) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(open.deadline - now);
      open.message.set_timeout_ms(static_cast<uint32_t>(std::max<int64_t>(left.count(), 1)));
      if (open.accepted) {
        auto* choices = open.message.mutable_resume()->mutable_choices();
        choices->Clear();
        for (const auto& [index, choice] : open.delivered) *choices->Add() = choice;
      }
      *up.add_opens() = open.message;
    }
    stream_->Send(std::move(up));
  }

  void OnEvent(const v1::EdgeEvent& event) {
    const auto it = open_.find(event.id());
    if (it == open_.end()) return;  // cancelled in between
    OpenRequest& open = it->second;
    const std::shared_ptr<EdgeListener> listener = open.listener;
    switch (event.event_case()) {
      case v1::EdgeEvent::kAccepted:
        open.message.mutable_resume()->set_request_id(event.accepted().request_id());
        open.message.mutable_resume()->set_seed(event.accepted().seed());
        if (!std::exchange(open.accepted, true)) listener->OnAccepted(ToAccepted(event.accepted()));
        return;
      case v1::EdgeEvent::kDelta: {
        v1::EdgeResumeChoice& choice = open.delivered[event.delta().choice()];
        choice.set_choice(event.delta().choice());
        choice.mutable_token_ids()->MergeFrom(event.delta().token_ids());
        choice.set_text_bytes(choice.text_bytes() + event.delta().text().size());
        choice.set_reasoning_bytes(choice.reasoning_bytes() +
                                   event.delta().reasoning_text().size());
        return listener->OnDelta(ToDelta(event.delta()), event.ByteSizeLong());
      }
      case v1::EdgeEvent::kError:
        open_.erase(it);
        return listener->OnError(ToApiError(event.error()));
      case v1::EdgeEvent::kDone:
        open_.erase(it);
        return listener->OnDone(ToUsage(event.done().usage()));
      case v1::EdgeEvent::EVENT_NOT_SET:
        return;
    }
  }

  void OnEnded(const std::string& why) {
    if (welcomed_ || reason_ != why) CHOIR_LOG(warn, "router {}", why);
    reason_ = why;
    welcomed_ = draining_ = false;
    stream_.reset();
    for (auto& [id, done] : std::exchange(auths_, {})) done(NotConnected(why));
    ExpireOpen();
    retry_.expires_after(backoff_);
    backoff_ = std::min<std::chrono::milliseconds>(backoff_ * 2, kBackoffMax);
    retry_.async_wait([alive = alive_](boost::system::error_code error) {
      if (!error && *alive != nullptr) (*alive)->Connect();
    });
  }

  // Without a router nobody else watches the deadlines.
  void ExpireOpen() {
    const MonoTime now = Clock::Real().Now();
    std::vector<std::shared_ptr<EdgeListener>> late;
    std::erase_if(open_, [&](const auto& item) {
      if (item.second.deadline > now) return false;
      late.push_back(item.second.listener);
      return true;
    });
    for (const auto& listener : late) listener->OnError(NotConnected(reason_));
  }

  boost::asio::io_context& io_;
  boost::asio::steady_timer retry_;
  const EdgeClientOptions options_;
  std::shared_ptr<EdgeClientImpl*> alive_;  // its target is nullptr once this is destroyed
  std::shared_ptr<EdgeStream> stream_;
  uint64_t generation_ = 0;
  size_t next_router_ = 0;
  bool welcomed_ = false, draining_ = false;
  std::string reason_ = "not connected yet";
  std::chrono::milliseconds backoff_ = kBackoffMin;
  std::vector<ApiModel> models_;
  uint64_t last_id_ = 0;
  std::map<uint64_t, std::function<void(ApiError)>> auths_;
  std::map<uint64_t, OpenRequest> open_;
};

}  // namespace

std::unique_ptr<EdgeClient> EdgeClient::Make(boost::asio::io_context& io,
                                             EdgeClientOptions options) {
  return std::make_unique<EdgeClientImpl>(io, std::move(options));
}

}  // namespace choir
