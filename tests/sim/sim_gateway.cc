#include "tests/sim/sim_gateway.h"

#include <utility>

#include "common/base/check.h"
#include "gateway/rpc/edge_convert.h"
#include "gateway/rpc/open_request.h"
#include "router/rpc/convert.h"

namespace choir::sim {

struct SimGateway::Open {
  std::string name;
  OpenRequest request;
  std::unique_ptr<ResponseCollector> collector;
  MonoTime deadline;
  uint64_t attempt = 0;  // which opening at a router is the current one
  uint64_t core_id = 0;  // of that router's core; 0: not there yet
  MonoTime free{};       // when the last event of this attempt arrives
};

// The router's end of one request: events on their way to the gateway.
class SimGateway::Client final : public ClientStream {
 public:
  Client(SimGateway* gateway, std::shared_ptr<Open> open)
      : gateway_(gateway), open_(std::move(open)), attempt_(open_->attempt) {}

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
    if (open_->attempt != attempt_) return true;
    open_->free = std::max(open_->free, time->Now() + gateway_->random_->Micros(20, 500));
    time->At(open_->free, [gateway = gateway_, name = open_->name, attempt = attempt_,
                           event = std::move(event)]() mutable {
      gateway->OnEvent(name, attempt, std::move(event));
    });
    return true;
  }

  SimGateway* const gateway_;
  const std::shared_ptr<Open> open_;
  const uint64_t attempt_;
};

SimGateway::SimGateway(SimTime* time, SimRandom* random, std::vector<SimRouter*> routers)
    : time_(time), random_(random), routers_(std::move(routers)) {
  Connect();
}
SimGateway::~SimGateway() = default;

void SimGateway::Send(const SimRequest& request) {
  ApiRequest parsed;
  const RestError error = request.chat ? ParseChatRequest(request.body, &parsed)
                                       : ParseCompletionRequest(request.body, &parsed);
  CHOIR_CHECK(error.http == 0);
  EdgeOpenInfo info;
  info.bearer = request.key;
  info.admission_class = request.wanted_class;
  info.route = request.chat ? "/v1/chat/completions" : "/v1/completions";
  info.client_request_id = request.name;
  info.timeout_ms = static_cast<uint32_t>(request.timeout_seconds * 1000);
  v1::EdgeOpen message;
  FillOpen(1, info, &message);
  FillRequest(parsed, 0, &message);
  auto open = std::make_shared<Open>(
      Open{.name = request.name, .request = OpenRequest(std::move(message))});
  open->deadline = time_->Now() + std::chrono::duration_cast<Duration>(
                                      std::chrono::duration<double>(request.timeout_seconds));
  open->collector = std::make_unique<ResponseCollector>(
      parsed, ApiIdentity{.request_id = request.name, .model = parsed.model, .created = 1});
  answers_[request.name].sent_at = time_->Now();
  open_.emplace(request.name, open);
  if (router_ != nullptr) OpenAtRouter(*open);
}

void SimGateway::OpenAtRouter(Open& open) {
  open.attempt = ++attempts_;
  open.core_id = 0;
  open.free = {};
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(open.deadline - time_->Now());
  resumes_ += open.request.accepted();
  SimRouter* const router = router_;
  time_->After(random_->Micros(20, 500), [this, router, name = open.name, attempt = open.attempt,
                                          message = open.request.Again(left)]() mutable {
    const auto it = open_.find(name);
    if (it == open_.end() || it->second->attempt != attempt || !router->alive()) return;
    const std::shared_ptr<Open> owner = it->second;
    const uint64_t id =
        router->core().Open(FromProto(std::move(message)), std::make_shared<Client>(this, owner));
    owner->core_id = id;
    router->Tick();
  });
}

void SimGateway::Connect() {
  if (std::exchange(connecting_, true)) return;
  time_->After(random_->Millis(1, 60), [this] {
    connecting_ = false;
    SimRouter* const next = routers_[next_router_++ % routers_.size()];
    if (!next->alive()) return Connect();
    router_ = next;
    const MonoTime now = time_->Now();
    for (auto it = open_.begin(); it != open_.end();) {
      Open& open = *(it++)->second;
      if (open.deadline <= now) {
        SimAnswer& answer = answers_[open.name];
        answer.ended = true;
        answer.ended_at = now;
        answer.error = {.http = 503, .type = "overloaded_error", .code = "not_ready"};
        open_.erase(open.name);
      } else {
        OpenAtRouter(open);
      }
    }
  });
}

void SimGateway::OnRouterDied(const SimRouter* router) {
  if (router_ != router) return;
  router_ = nullptr;
  // What was sent before the death still arrives; nothing after the new attempt begins counts.
  Connect();
}

void SimGateway::Cancel(const std::string& name) {
  const auto it = open_.find(name);
  if (it == open_.end()) return;
  const std::shared_ptr<Open> open = it->second;
  open_.erase(it);
  SimAnswer& answer = answers_[name];
  answer.ended = answer.cancelled = true;
  answer.ended_at = time_->Now();
  SimRouter* const router = router_;
  if (router == nullptr) return;
  // Behind the opening, as on one stream.
  time_->After(std::chrono::microseconds(500), [router, open] {
    if (!router->alive() || open->core_id == 0) return;
    router->core().Cancel(open->core_id, "the client is gone");
    router->Tick();
  });
}

void SimGateway::OnEvent(const std::string& name, uint64_t attempt, v1::EdgeEvent event) {
  const auto it = open_.find(name);
  if (it == open_.end() || it->second->attempt != attempt) return;
  const std::shared_ptr<Open> open = it->second;
  SimAnswer& answer = answers_[name];
  switch (event.event_case()) {
    case v1::EdgeEvent::kAccepted:
      open->request.OnAccepted(event.accepted());
      answer.accepted_at = answer.accepted_at.value_or(time_->Now());
      return;
    case v1::EdgeEvent::kDelta:
      open->request.OnDelta(event.delta(), event.ByteSizeLong());
      return open->collector->Add(ToDelta(event.delta()));
    case v1::EdgeEvent::kError:
      answer.error = ToRestError(event.error());
      break;
    case v1::EdgeEvent::kDone:
      answer.usage = ToUsage(event.done().usage());
      answer.usage.cached_tokens = 0;  // depends on what else ran
      answer.body = open->collector->Body(answer.usage);
      break;
    case v1::EdgeEvent::EVENT_NOT_SET:
      CHOIR_CHECK(false);
  }
  answer.ended = true;
  answer.ended_at = time_->Now();
  open_.erase(name);
}

}  // namespace choir::sim
