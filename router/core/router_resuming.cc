// Streams that outlive their gateway (contract §10). One that is under way runs on without a client
// for settings_.resume_grace; one that has ended is kept until its gateway says that its client has
// the end, or for the same time after its gateway is gone. Either is taken up by Attach.
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

// Stands for a client that may come back: takes everything, keeps nothing, for the relay has it.
class AbsentClient final : public ClientStream {
 public:
  bool Accepted(const AcceptedInfo&) override { return true; }
  bool Delta(ChoiceDelta) override { return true; }
  void Done(const Usage&) override {}
  void Fail(const ApiError&, const FailedInfo&) override {}
};

}  // namespace

// What can be taken up again: begun, wanted, and not ended by its own client.
bool RouterCore::Outlives(const Request& request) const {
  const bool begun = request.relay != nullptr;
  const bool cancelled = request.error && request.error->http == 499;
  return begun && !cancelled && !request.input.resume_state.empty() &&
         settings_.resume_grace > Duration(0);
}

void RouterCore::Detach(uint64_t id, const ClientStream* client) {
  Request* const request = FindKept(id);
  if (request == nullptr || request->client.get() != client) return;
  if (!Outlives(*request)) return Cancel(id, "the gateway's stream ended", client);
  request->client = std::make_shared<AbsentClient>();
  request->given_up_at = parts_.clock->Now() + settings_.resume_grace;
  detached_.emplace(request->given_up_at, id);
  LogFields(
      spdlog::level::info,
      fmt::format("its gateway is gone; it can be taken up for {:.0f} s",
                  Seconds(settings_.resume_grace)),
      {{"request_id", request->request_id}, {"trace_id", TraceIdOf(request->input.trace_parent)}});
}

// Running, or ended and kept.
Request* RouterCore::FindKept(uint64_t id) {
  if (const auto it = requests_.find(id); it != requests_.end()) return it->second.get();
  const auto it = parked_.find(id);
  return it == parked_.end() ? nullptr : it->second.get();
}

// Keeps an ended one, for its client may not have the end yet.
void RouterCore::ParkOrForget(std::unique_ptr<Request> request) {
  if (!Outlives(*request) || request->given_up) return ForgetDetached(*request);
  const uint64_t id = request->id;
  request_ids_.emplace(std::pair(request->tenant(), request->name), id);
  request->parked = ++num_parked_;
  parked_in_order_.emplace(request->parked, id);
  parked_.emplace(id, std::move(request));
  if (parked_.size() > settings_.resume_streams_max) Unpark(parked_in_order_.begin()->second);
}

void RouterCore::Unpark(uint64_t id) {
  const auto it = parked_.find(id);
  if (it == parked_.end()) return;
  const std::unique_ptr<Request> request = std::move(it->second);
  parked_.erase(it);
  parked_in_order_.erase(request->parked);
  ForgetDetached(*request);
  ForgetName(*request);
}

void RouterCore::ForgetDetached(Request& request) {
  if (request.given_up_at == MonoTime{}) return;
  detached_.erase({request.given_up_at, request.id});
  request.given_up_at = MonoTime{};
}

void RouterCore::ForgetName(const Request& request) {
  const auto named = request_ids_.find({request.tenant(), request.name});
  if (named != request_ids_.end() && named->second == request.id) request_ids_.erase(named);
}

void RouterCore::GiveUpDetached(MonoTime now) {
  while (!detached_.empty() && detached_.begin()->first <= now) {
    const uint64_t id = detached_.begin()->second;
    detached_.erase(detached_.begin());
    Request* const request = FindKept(id);
    CHOIR_CHECK(request != nullptr);
    request->given_up_at = MonoTime{};
    request->given_up = true;
    Cancel(id, "its gateway went away, and nobody took the stream up");
  }
}

uint64_t RouterCore::Attach(const AttachInput& input, std::shared_ptr<ClientStream> client) {
  const auto principal = parts_.identity->Authenticate(input.bearer, {});
  if (!principal) {
    client->Fail(InvalidKey(), {});
    return 0;
  }
  const auto named = request_ids_.find({principal->tenant, input.request_id});
  Request* const request = named == request_ids_.end() ? nullptr : FindKept(named->second);
  if (request == nullptr || !Outlives(*request)) {
    // The same words whether it never was, is over, or is somebody else's.
    client->Fail(StreamNotFound(input.request_id), {});
    return 0;
  }
  if (auto denied = CheckRights(*principal->rights, request->input.model, input.source)) {
    client->Fail(*denied, {});
    return 0;
  }
  auto missed = request->relay->DeliverAgain(input.position, input.choices);
  if (!missed.ok()) {
    const bool gone = absl::IsNotFound(missed.status());
    client->Fail(gone ? StreamNotFound(input.request_id)
                      : InvalidParam("last-event-id", MessageOf(missed.status())),
                 {});
    return 0;
  }
  TakeUp(*request, input.source, std::move(client), *std::move(missed));
  return request->id;
}

void RouterCore::TakeUp(Request& request, const std::string& source,
                        std::shared_ptr<ClientStream> client, std::vector<ChoiceDelta> missed) {
  const uint64_t id = request.id;
  const auto before = std::exchange(request.client, std::move(client));
  if (request.given_up_at == MonoTime{}) {  // a gateway that nobody heard of being gone
    before->Fail(ClientGone("the stream was taken up elsewhere"), {request.name, ""});
  }
  ForgetDetached(request);
  parts_.metrics->resumed_streams.Increment();
  parts_.audit->Admin("resume", fmt::format("{} by {}", request.request_id, source));
  AcceptedInfo accepted;
  accepted.request_id = request.name;
  accepted.audit_receipt = request.audit_receipt;
  accepted.resume_state = request.input.resume_state;
  bool fits = request.client->Accepted(accepted);
  for (ChoiceDelta& delta : missed) fits = request.client->Delta(std::move(delta)) && fits;
  if (!fits) return Cancel(id, "the client reads more slowly than its buffer allows");
  if (!parked_.contains(id)) return;
  if (request.error) {
    request.client->Fail(*request.error, {request.name, request.audit_receipt});
  } else {
    request.client->Done(request.usage);
  }
}

// A gateway that comes back after its stream broke brings its own word of what was delivered, and
// begins the request anew from there: what ran on without it ends.
void RouterCore::EndPredecessor(const std::string& request_id, const std::string& tenant) {
  const auto named = request_ids_.find({tenant, request_id});
  if (named == request_ids_.end()) return;
  const uint64_t id = named->second;
  Request* const request = FindKept(id);
  if (request == nullptr || request->given_up_at == MonoTime{}) return;
  ForgetName(*request);
  ForgetDetached(*request);
  Cancel(id, "its gateway came back and began it anew");
}

}  // namespace choir
