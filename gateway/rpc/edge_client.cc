#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <set>
#include <utility>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "common/rpc/credentials.h"
#include "gateway/rpc/edge_convert.h"
#include "gateway/rpc/edge_link.h"
#include "gateway/rpc/edge_stream.h"
#include "gateway/rpc/known_keys.h"
#include "gateway/rpc/open_request.h"

namespace choir {
namespace {

constexpr size_t kKnownKeysMax = 4096;
constexpr auto kBackoffMin = std::chrono::milliseconds(50);
constexpr auto kBackoffMax = std::chrono::milliseconds(2000);

RestError NotConnected(const std::string& reason) {
  return {.http = 503,
          .type = "overloaded_error",
          .code = "not_ready",
          .message = "no router can be reached: " + reason,
          .retry_after_seconds = 1};
}

// gRPC's words, of either side.
bool IsTooManyPings(const std::string& why) {
  return why.find("oo many pings") != std::string::npos ||
         why.find("too_many_pings") != std::string::npos;
}

class EdgeLinkImpl final : public EdgeLink {
 public:
  EdgeLinkImpl(boost::asio::io_context& io, EdgeClientOptions options, EdgeLinkStart start)
      : io_(io),
        retry_(io),
        options_(std::move(options)),
        alive_(std::make_shared<EdgeLinkImpl*>(this)),
        known_(&Clock::Real(), options_.key_known_for, kKnownKeysMax),
        on_change_(std::move(start.on_change)),
        router_(start.router % options_.routers.size()),
        stays_(start.stays),
        last_id_(start.id) {
    boost::asio::post(io_, Guarded([](EdgeLinkImpl& self) { self.Connect(); }));
  }
  ~EdgeLinkImpl() override {
    *alive_ = nullptr;
    if (!stream_) return;
    stream_->Cancel();
    stream_->done().wait();
  }

  bool connected() const override { return welcomed_ && !draining_; }
  std::string reason() const override { return draining_ ? "the router is draining" : reason_; }
  const std::vector<ApiModel>& models() const override { return models_; }

  bool reached() const override { return welcomed_; }
  bool fit() const override { return welcomed_ && !draining_ && !unfit_; }
  bool idle() const override {
    return open_.empty() && ended_.empty() && auths_.empty() && explains_.empty() && !flush_is_due_;
  }
  size_t router() const override { return router_; }
  void SetSeeking(bool seeking) override { seeking_ = seeking; }

  void Authenticate(EdgeCaller caller, AuthDone done) override {
    if (!welcomed_) return done(NotConnected(reason_), {});
    const bool judged_again = !caller.want_status && !caller.check_rights;
    if (judged_again && known_.Knows(caller.bearer)) return done({}, {});
    const uint64_t id = ++last_id_;
    auths_[id] = {caller.bearer, std::move(done)};
    v1::EdgeAuth* auth = Out().add_auths();
    auth->set_id(id);
    auth->set_bearer(std::move(caller.bearer));
    auth->set_source(std::move(caller.source));
    auth->set_route(std::move(caller.route));
    auth->set_want_status(caller.want_status);
    auth->set_check_rights(caller.check_rights);
    auth->set_model(std::move(caller.model));
    auth->set_client_request_id(std::move(caller.request_id));
  }

  void Explain(const ApiRequest& request, const EdgeOpenInfo& info, ExplainDone done) override {
    if (!HasRoom()) return done(NoRoom(), {});
    const uint64_t id = ++last_id_;
    explains_[id] = std::move(done);
    v1::EdgeOpen* asked = Out().add_explains();
    FillRequest(request, 0, asked);
    FillOpen(id, info, asked);
    out_bytes_ += asked->ByteSizeLong();
  }

  uint64_t Open(const ApiRequest& request, size_t prompt, const EdgeOpenInfo& info,
                std::shared_ptr<EdgeListener> listener) override {
    v1::EdgeOpen message;
    FillRequest(request, prompt, &message);
    return Send(std::move(message), info, std::move(listener));
  }

  uint64_t Attach(const std::string& request_id, const StreamPosition& position,
                  const EdgeOpenInfo& info, std::shared_ptr<EdgeListener> listener) override {
    v1::EdgeOpen message;
    FillAttach(request_id, position, message.mutable_attach());
    return Send(std::move(message), info, std::move(listener));
  }

  void Took(uint64_t id, size_t bytes) override {
    const auto it = open_.find(id);
    if (it == open_.end()) return;
    OpenRequest& request = it->second.request;
    request.OnTaken(bytes);
    if (!welcomed_) return;
    if (const uint64_t grant_bytes = request.TakeGrant(); grant_bytes != 0) {
      v1::EdgeGrant* grant = Out().add_grants();
      grant->set_id(id);
      grant->set_bytes(grant_bytes);
    }
  }

  void Cancel(uint64_t id) override {
    const bool ended = ended_.erase(id) != 0;
    if ((open_.erase(id) == 0 && !ended) || !welcomed_) return;
    Out().add_cancels()->set_id(id);
  }

 private:
  struct Opened {
    std::shared_ptr<EdgeListener> listener;
    MonoTime deadline;
    OpenRequest request;
  };

  bool HasRoom() const {
    return welcomed_ && out_bytes_ + stream_->pending_bytes() <= options_.pending_bytes_max;
  }
  RestError NoRoom() const {
    return NotConnected(welcomed_ ? "the stream to it is full" : reason_);
  }

  uint64_t Send(v1::EdgeOpen message, const EdgeOpenInfo& info,
                std::shared_ptr<EdgeListener> listener) {
    const uint64_t id = ++last_id_;
    if (!HasRoom()) {
      boost::asio::post(
          io_, [listener = std::move(listener), error = NoRoom()] { listener->OnError(error); });
      return id;
    }
    FillOpen(id, info, &message);
    out_bytes_ += message.ByteSizeLong();
    *Out().add_opens() = message;
    open_.emplace(
        id, Opened{.listener = std::move(listener),
                   .deadline = Clock::Real().Now() + std::chrono::milliseconds(info.timeout_ms),
                   .request = OpenRequest(std::move(message))});
    return id;
  }

  // Runs `f(*this)` later on the io thread unless this object is gone by then.
  template <typename F>
  std::function<void()> Guarded(F f) {
    return [alive = alive_, f = std::move(f)] {
      if (*alive != nullptr) f(**alive);
    };
  }

  // What one turn of the io thread sends leaves in one message, behind everything that is ready.
  v1::EdgeUp& Out() {
    if (!std::exchange(flush_is_due_, true)) {
      boost::asio::post(io_, Guarded([](EdgeLinkImpl& self) { self.Flush(); }));
    }
    return out_;
  }
  void Flush() {
    flush_is_due_ = false;
    out_bytes_ = 0;
    if (welcomed_) stream_->Send(std::move(out_));
    out_.Clear();
  }

  // Whether the router in turn lately said that it allows few pings.
  bool IsSlow() {
    const auto it = slow_.find(router_);
    if (it == slow_.end()) return false;
    if (Clock::Real().Now() - it->second < options_.slow_for) return true;
    slow_.erase(it);
    return false;
  }

  void Connect() {
    ExpireOpen();
    const std::string& address = options_.routers[router_];
    const uint64_t generation = ++generation_;
    const auto credentials =
        MakeChannelCredentials(options_.tls, options_.tls_options, address, kRouterRole);
    if (!credentials.ok()) return OnEnded(address + ": " + MessageOf(credentials.status()));
    auto alive = alive_;
    auto& io = io_;
    stream_ = std::make_shared<EdgeStream>(
        address, *credentials,
        EdgeStream::Times{options_.router_timeout,
                          IsSlow() ? options_.slow_ping_interval : options_.ping_interval},
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
      const auto [bearer, done] = std::move(it->second);
      auths_.erase(it);
      if (!result.has_error()) known_.Learn(bearer);
      done(result.has_error() ? ToRestError(result.error()) : RestError{},
           {result.status_json(), {result.models().begin(), result.models().end()}});
    }
    for (const auto& explained : down.explained()) {
      const auto node = explains_.extract(explained.id());
      if (node.empty()) continue;
      node.mapped()(explained.has_error() ? ToRestError(explained.error()) : RestError{},
                    explained.json());
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
    const bool unfit = !welcome.unfit().empty();
    if (seeking_ && (welcome.draining() || unfit)) return stream_->Cancel();
    if (!welcomed_) CHOIR_LOG(info, "connected to router {}", welcome.router());
    const bool first = !std::exchange(welcomed_, true);
    draining_ = welcome.draining();
    if (unfit && !unfit_) CHOIR_LOG(warn, "router {}: {}", welcome.router(), welcome.unfit());
    unfit_ = unfit;
    backoff_ = kBackoffMin;
    models_.clear();
    for (const auto& m : welcome.models()) {
      models_.push_back({m.id(), m.created(), m.context_length()});
    }
    if (first && !open_.empty()) Reattach();
    if (on_change_) on_change_();
  }

  // Opens again what the lost router had: a request that was accepted goes on behind what was
  // delivered, the others begin anew.
  void Reattach() {
    CHOIR_LOG(info, "going on with {} requests", open_.size());
    const MonoTime now = Clock::Real().Now();
    for (auto& [id, open] : open_) {
      *Out().add_opens() = open.request.Again(
          std::chrono::duration_cast<std::chrono::milliseconds>(open.deadline - now));
    }
  }

  void OnEvent(const v1::EdgeEvent& event) {
    const auto it = open_.find(event.id());
    if (it == open_.end()) return;  // cancelled in between
    OpenRequest& request = it->second.request;
    const std::shared_ptr<EdgeListener> listener = it->second.listener;
    switch (event.event_case()) {
      case v1::EdgeEvent::kAccepted:
        if (request.OnAccepted(event.accepted()))
          listener->OnAccepted(ToAccepted(event.accepted()));
        return;
      case v1::EdgeEvent::kDelta:
        request.OnDelta(event.delta(), event.ByteSizeLong());
        return listener->OnDelta(ToDelta(event.delta()), event.ByteSizeLong());
      case v1::EdgeEvent::kError:
        if (event.error().http() == 401) known_.Forget(request.message().bearer());
        NoteEnd(it);
        return listener->OnError(ToRestError(event.error()));
      case v1::EdgeEvent::kDone:
        NoteEnd(it);
        return listener->OnDone(ToUsage(event.done().usage()));
      case v1::EdgeEvent::EVENT_NOT_SET:
        return;
    }
  }

  void NoteEnd(std::map<uint64_t, Opened>::iterator it) {
    const v1::EdgeOpen& message = it->second.request.message();
    if (message.has_attach() || !message.resume_state().empty()) ended_.insert(it->first);
    open_.erase(it);
  }

  void OnEnded(const std::string& why) {
    if (!seeking_ && (welcomed_ || reason_ != why)) CHOIR_LOG(warn, "router {}", why);
    reason_ = why;
    if (welcomed_) lost_at_ = Clock::Real().Now();
    welcomed_ = draining_ = unfit_ = false;
    const bool calmed = IsTooManyPings(why) && slow_.emplace(router_, Clock::Real().Now()).second;
    if (calmed) {
      CHOIR_LOG(info, "router {}: is pinged each {:.0f} s only: a hang there is found later",
                options_.routers[router_], Seconds(options_.slow_ping_interval));
    }
    if (!stays_ && !calmed) router_ = (router_ + 1) % options_.routers.size();
    stream_.reset();
    ended_.clear();
    out_.Clear();  // the next router is asked anew
    for (auto& [id, asked] : std::exchange(auths_, {})) asked.done(NotConnected(why), {});
    for (auto& [id, done] : std::exchange(explains_, {})) done(NotConnected(why), {});
    ExpireOpen();
    retry_.expires_after(backoff_);
    backoff_ = std::min<std::chrono::milliseconds>(backoff_ * 2, kBackoffMax);
    retry_.async_wait([alive = alive_](boost::system::error_code error) {
      if (!error && *alive != nullptr) (*alive)->Connect();
    });
    if (on_change_) on_change_();
  }

  // Without a router nobody else watches the deadlines. A stream that was taken up is not waited
  // for so long: its client may ask again, wherever it is then.
  void ExpireOpen() {
    const MonoTime now = Clock::Real().Now();
    const bool gone = now - lost_at_ > 2 * options_.router_timeout;
    std::vector<std::shared_ptr<EdgeListener>> late;
    std::erase_if(open_, [&](const auto& item) {
      const bool given_up = gone && item.second.request.message().has_attach();
      if (item.second.deadline > now && !given_up) return false;
      late.push_back(item.second.listener);
      return true;
    });
    for (const auto& listener : late) listener->OnError(NotConnected(reason_));
  }

  boost::asio::io_context& io_;
  boost::asio::steady_timer retry_;
  const EdgeClientOptions options_;
  std::shared_ptr<EdgeLinkImpl*> alive_;  // its target is nullptr once this is destroyed
  std::shared_ptr<EdgeStream> stream_;
  v1::EdgeUp out_;        // for the next Flush
  size_t out_bytes_ = 0;  // of its requests
  bool flush_is_due_ = false;
  uint64_t generation_ = 0;
  bool welcomed_ = false, draining_ = false, unfit_ = false;
  std::string reason_ = "not connected yet";
  MonoTime lost_at_;  // when its router was there last
  std::chrono::milliseconds backoff_ = kBackoffMin;
  std::vector<ApiModel> models_;
  struct Asked {
    std::string bearer;
    AuthDone done;
  };
  std::map<uint64_t, Asked> auths_;
  std::map<uint64_t, ExplainDone> explains_;
  KnownKeys known_;
  const std::function<void()> on_change_;
  size_t router_;
  std::map<size_t, MonoTime> slow_;  // routers that allow few pings, and since when they say so
  const bool stays_;
  uint64_t last_id_;
  bool seeking_ = false;
  std::map<uint64_t, Opened> open_;
  std::set<uint64_t> ended_;  // whose last event the router keeps until the client has it
};

}  // namespace

std::unique_ptr<EdgeLink> EdgeLink::Make(boost::asio::io_context& io, EdgeClientOptions options,
                                         EdgeLinkStart start) {
  return std::make_unique<EdgeLinkImpl>(io, std::move(options), std::move(start));
}

}  // namespace choir
