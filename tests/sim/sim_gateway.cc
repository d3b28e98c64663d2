#include "tests/sim/sim_gateway.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "gateway/api/stream_position.h"
#include "gateway/rpc/edge_convert.h"
#include "gateway/rpc/open_request.h"
#include "router/rpc/convert.h"

namespace choir::sim {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(50);  // of clients without a gateway

// The id of the last event; empty: none of them has one.
std::string LastId(const std::string& events) {
  const size_t before = events.rfind("\nid: ");
  if (before == std::string::npos && !events.starts_with("id: ")) return "";
  const size_t begin = (before == std::string::npos ? 0 : before + 1) + 4;
  return events.substr(begin, events.find('\n', begin) - begin);
}

}  // namespace

struct SimGateway::Open {
  enum class State { kOpen, kAway, kAttached };  // away: its client lost the gateway

  SimRequest asked;
  ApiRequest parsed;
  EdgeOpenInfo info;
  MonoTime deadline;
  State state = State::kOpen;
  std::unique_ptr<OpenRequest> request;
  SimRouter* router = nullptr;  // where it is open
  std::shared_ptr<Client> client;
  uint64_t attempt = 0;  // which opening at a router is the current one
  uint64_t core_id = 0;  // of that router's core; 0: not there yet
  bool begun = false;    // it was accepted in this attempt
  MonoTime free{};       // when the last event of this attempt arrives
  // The client's: what it has, with the id of each event; none: no event came of it.
  struct Taken {
    ApiDelta delta;
    std::string id;
  };
  std::vector<Taken> taken;
  std::unique_ptr<StreamWriter> writer;
  uint64_t away = 0;   // how often it lost the gateway
  uint64_t again = 0;  // how often it asked from the start
  std::vector<SimRouter*> unasked;
  // Where it ran when its gateway died, in which life, and how long at least; null: it had not
  // begun.
  SimRouter* holder = nullptr;
  size_t resumed_behind = 0;  // so many of `taken`
  uint64_t holder_life = 0;
  MonoTime held_until{};

  ApiIdentity identity() const {
    return {.request_id = asked.name, .model = parsed.model, .created = 1};
  }
  uint32_t choices() const { return parsed.sampling.n.value_or(1); }
  StreamPosition position() const {
    if (taken.empty()) return {};
    const auto position = ParsePositionId(taken.back().id);
    CHOIR_CHECK(position.has_value());
    return *position;
  }
  void BeginWriter() {
    StreamPosition from = position();
    from.resize(choices());
    writer = std::make_unique<StreamWriter>(parsed, identity(), std::move(from));
  }
};

// The router's end of one request: events on their way to the gateway.
class SimGateway::Client final : public ClientStream {
 public:
  Client(SimGateway* gateway, const std::shared_ptr<Open>& open)
      : gateway_(gateway), name_(open->asked.name), open_(open), attempt_(open->attempt) {}

  bool Accepted(const AcceptedInfo& info) override {
    v1::EdgeEvent event;
    event.mutable_accepted()->set_request_id(info.request_id);
    event.mutable_accepted()->set_seed(info.seed);
    event.mutable_accepted()->set_audit_receipt(info.audit_receipt);
    return Send(std::move(event));
  }
  bool Delta(ChoiceDelta delta) override {
    v1::EdgeEvent event;
    ToProto(std::move(delta), event.mutable_delta());
    return Send(std::move(event));
  }
  void Done(const Usage& usage) override {
    v1::EdgeEvent event;
    ToProto(usage, event.mutable_done()->mutable_usage());
    Send(std::move(event));
  }
  void Fail(const ApiError& error, const FailedInfo& info) override {
    v1::EdgeEvent event;
    ToProto(error, info, event.mutable_error());
    Send(std::move(event));
  }

 private:
  bool Send(v1::EdgeEvent event) {
    SimTime* const time = gateway_->time_;
    const std::shared_ptr<Open> open = open_.lock();
    if (open == nullptr || open->attempt != attempt_) return true;
    open->free = std::max(open->free, time->Now() + gateway_->random_->Micros(20, 500));
    time->At(open->free, [gateway = gateway_, name = name_, attempt = attempt_,
                          event = std::move(event)]() mutable {
      gateway->OnEvent(name, attempt, std::move(event));
    });
    return true;
  }

  SimGateway* const gateway_;
  const std::string name_;
  const std::weak_ptr<Open> open_;
  const uint64_t attempt_;
};

SimGateway::SimGateway(SimTime* time, SimRandom* random, std::vector<SimRouter*> routers)
    : time_(time), random_(random), routers_(std::move(routers)) {
  Connect();
}
SimGateway::~SimGateway() = default;

void SimGateway::Send(const SimRequest& request) {
  if (!alive_) {
    time_->After(kRetry, [this, &request] { Send(request); });
    return;
  }
  auto open = std::make_shared<Open>();
  open->asked = request;
  const RestError error = request.chat ? ParseChatRequest(request.body, &open->parsed)
                                       : ParseCompletionRequest(request.body, &open->parsed);
  CHOIR_CHECK(error.http == 0);
  open->info.bearer = request.key;
  open->info.admission_class = request.wanted_class;
  open->info.route = request.chat ? "/v1/chat/completions" : "/v1/completions";
  open->info.timeout_ms = static_cast<uint32_t>(request.timeout_seconds * 1000);
  open->info.resume_state = WriteResumeState({.chat = request.chat,
                                              .choices = open->choices(),
                                              .created = 1,
                                              .model = open->parsed.model});
  open_.emplace(request.name, open);
  Ask(*open);
}

// From the start; the name that was asked by before may be in use.
void SimGateway::Ask(Open& open) {
  SimAnswer& answer = answers_[open.asked.name];
  answer.asked_as =
      open.again == 0 ? open.asked.name : fmt::format("{}.{}", open.asked.name, open.again);
  ++open.again;
  answer.sent_at = time_->Now();
  answer.accepted_at.reset();
  open.info.client_request_id = answer.asked_as;
  open.deadline = time_->Now() + std::chrono::duration_cast<Duration>(
                                     std::chrono::duration<double>(open.asked.timeout_seconds));
  v1::EdgeOpen message;
  FillOpen(1, open.info, &message);
  FillRequest(open.parsed, 0, &message);
  open.request = std::make_unique<OpenRequest>(std::move(message));
  open.state = Open::State::kOpen;
  open.taken.clear();
  open.resumed_behind = 0;
  open.BeginWriter();
  if (router_ != nullptr) OpenAtRouter(open);
}

void SimGateway::OpenAtRouter(Open& open) {
  open.attempt = ++attempts_;
  open.core_id = 0;
  open.begun = false;
  open.free = {};
  open.router = router_;
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(open.deadline - time_->Now());
  if (open.request->accepted()) {
    ++resumes_;
    open.resumed_behind = open.taken.size();
  }
  time_->After(random_->Micros(20, 500),
               [this, router = router_, name = open.asked.name, attempt = open.attempt,
                message = open.request->Again(left)]() mutable {
                 const auto it = open_.find(name);
                 if (it == open_.end() || it->second->attempt != attempt || !router->alive())
                   return;
                 const std::shared_ptr<Open> owner = it->second;
                 owner->client = std::make_shared<Client>(this, owner);
                 owner->core_id = router->core().Open(FromProto(std::move(message)), owner->client);
                 router->Tick();
               });
}

void SimGateway::Connect() {
  if (!alive_ || std::exchange(connecting_, true)) return;
  time_->After(random_->Millis(1, 60), [this, life = life_] {
    if (life != life_) return;
    connecting_ = false;
    SimRouter* const next = routers_[next_router_++ % routers_.size()];
    if (!next->alive()) return Connect();
    router_ = next;
    const MonoTime now = time_->Now();
    for (auto it = open_.begin(); it != open_.end();) {
      const std::shared_ptr<Open> open = (it++)->second;
      if (open->state != Open::State::kOpen) continue;
      if (open->deadline <= now) {
        answers_[open->asked.name].error = {
            .http = 503, .type = "overloaded_error", .code = "not_ready"};
        End(open);
      } else {
        OpenAtRouter(*open);
      }
    }
  });
}

void SimGateway::OnRouterDied(const SimRouter* router) {
  for (const auto& [name, open] : open_) {
    if (open->router != router) continue;
    open->core_id = 0;
    if (open->state != Open::State::kAttached) continue;
    // The other routers know nothing of it.
    open->attempt = ++attempts_;
    time_->After(random_->Millis(1, 60), [this, name = name, attempt = open->attempt] {
      const auto it = open_.find(name);
      if (it != open_.end() && it->second->attempt == attempt) AttachNext(*it->second);
    });
  }
  if (router_ != router) return;
  router_ = nullptr;
  // What was sent before the death still arrives; nothing after the new attempt begins counts.
  Connect();
}

void SimGateway::Boot() {
  alive_ = true;
  Connect();
}

void SimGateway::Die() {
  alive_ = connecting_ = false;
  ++life_;
  router_ = nullptr;
  for (const auto& [name, open] : open_) {
    Detach(*open);
    // Its client has what came in events, and perhaps not the last of them.
    int64_t lost = random_->Between(0, 3);
    while (!open->taken.empty() && (open->taken.back().id.empty() || lost-- > 0)) {
      open->taken.pop_back();
    }
    open->state = Open::State::kAway;
    time_->After(random_->Millis(1, 1500),
                 [this, name = name, away = ++open->away] { ComeBack(name, away); });
  }
}

// Its router hears of the gateway's end, sooner or later.
void SimGateway::Detach(Open& open) {
  open.attempt = ++attempts_;
  if (open.router == nullptr || open.core_id == 0) return;
  const auto left = [router = open.router, id = open.core_id, client = open.client] {
    if (!router->alive()) return;
    router->core().Detach(id, client.get());
    router->Tick();
  };
  time_->After(random_->Chance(0.2) ? random_->Millis(0, 3000) : random_->Millis(0, 20), left);
  open.core_id = 0;
  if (open.begun && open.router->alive()) {
    open.holder = open.router;
    open.holder_life = open.router->lives();
    open.held_until = time_->Now() + kResumeGrace;
  }
}

void SimGateway::ComeBack(const std::string& name, uint64_t away) {
  const auto it = open_.find(name);
  if (it == open_.end() || it->second->away != away) return;
  if (router_ == nullptr) {
    time_->After(kRetry, [this, name, away] { ComeBack(name, away); });
    return;
  }
  Open& open = *it->second;
  open.state = Open::State::kAttached;
  open.unasked = routers_;  // the one in use is asked first, that is last in this list
  std::swap(*std::find(open.unasked.begin(), open.unasked.end(), router_), open.unasked.back());
  open.BeginWriter();
  AttachNext(open);
}

void SimGateway::AttachNext(Open& open) {
  const std::string name = open.asked.name;
  while (!open.unasked.empty() && !open.unasked.back()->alive()) open.unasked.pop_back();
  if (open.unasked.empty()) {
    const bool held = open.holder != nullptr && open.holder->alive() &&
                      open.holder->lives() == open.holder_life && time_->Now() < open.held_until;
    // The router that it went on at does not know the log probabilities of what came before.
    const bool unknown = open.parsed.sampling.logprobs && open.taken.size() < open.resumed_behind;
    if (held && !unknown) answers_[name].complaint = "its stream is not found";
    open.holder = nullptr;
    return Ask(open);
  }
  SimRouter* const router = open.router = open.unasked.back();
  open.unasked.pop_back();
  open.attempt = ++attempts_;
  open.core_id = 0;
  open.begun = false;
  open.free = {};
  v1::EdgeOpen message;
  FillAttach(answers_[name].asked_as, open.position(), message.mutable_attach());
  FillOpen(1, open.info, &message);
  open.request = std::make_unique<OpenRequest>(message);
  time_->After(random_->Micros(20, 500), [this, router, name, attempt = open.attempt, message] {
    const auto it = open_.find(name);
    if (it == open_.end() || it->second->attempt != attempt || !router->alive()) return;
    const std::shared_ptr<Open> owner = it->second;
    owner->client = std::make_shared<Client>(this, owner);
    owner->core_id = router->core().Attach(AttachFromProto(message), owner->client);
    router->Tick();
  });
}

void SimGateway::Cancel(const std::string& name) {
  const auto it = open_.find(name);
  if (it == open_.end()) return;
  answers_[name].cancelled = true;
  End(it->second);
}

// Nothing more is heard of it; its router need not keep it.
void SimGateway::End(std::shared_ptr<Open> open) {
  SimAnswer& answer = answers_[open->asked.name];
  answer.ended = true;
  answer.ended_at = time_->Now();
  open_.erase(open->asked.name);
  if (open->router == nullptr || open->state == Open::State::kAway) return;
  // Behind the opening, as on one stream.
  time_->After(std::chrono::microseconds(500), [open] {
    if (!open->router->alive() || open->core_id == 0) return;
    open->router->core().Cancel(open->core_id, "the client is gone", open->client.get());
    open->router->Tick();
  });
}

void SimGateway::TakeDelta(Open& open, const v1::GenerateEvent& delta) {
  open.taken.push_back({ToDelta(delta), ""});
  open.taken.back().id = LastId(open.writer->Delta(open.taken.back().delta));
}

void SimGateway::OnEvent(const std::string& name, uint64_t attempt, v1::EdgeEvent event) {
  const auto it = open_.find(name);
  if (it == open_.end() || it->second->attempt != attempt) return;
  const std::shared_ptr<Open> open = it->second;
  const bool attached = open->state == Open::State::kAttached;
  SimAnswer& answer = answers_[name];
  switch (event.event_case()) {
    case v1::EdgeEvent::kAccepted:
      open->request->OnAccepted(event.accepted());
      open->begun = true;
      answer.accepted_at = answer.accepted_at.value_or(time_->Now());
      taken_up_ += attached;
      return;
    case v1::EdgeEvent::kDelta:
      open->request->OnDelta(event.delta(), event.ByteSizeLong());
      return TakeDelta(*open, event.delta());
    case v1::EdgeEvent::kError:
      if (attached && event.error().http() == 404) return AttachNext(*open);
      answer.error = ToRestError(event.error());
      break;
    case v1::EdgeEvent::kDone: {
      answer.usage = ToUsage(event.done().usage());
      answer.usage.cached_tokens = 0;  // depends on what else ran
      ResponseCollector whole(open->parsed, open->identity());
      for (const Open::Taken& taken : open->taken) whole.Add(taken.delta);
      answer.body = whole.Body(answer.usage);
      break;
    }
    case v1::EdgeEvent::EVENT_NOT_SET:
      CHOIR_CHECK(false);
  }
  End(open);
}

}  // namespace choir::sim
