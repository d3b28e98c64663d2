// Requests: from Open to their end. Workers are in router_workers.cc, the status page in
// status_page.cc.
#include "router/core/router_core.h"

#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"

namespace choir {
namespace {

// What a client is told to wait when a rank comes back or the router's replacement takes over.
constexpr double kRetryNotReady = 2;
constexpr double kRetryDraining = 1;

std::string MakeRequestId(const std::function<uint64_t()>& random) {
  return fmt::format("req-{:016x}{:08x}", random(), random() >> 32);
}

}  // namespace

RouterCore::RouterCore(RouterSettings settings, RouterParts parts)
    : settings_(std::move(settings)),
      parts_(std::move(parts)),
      membership_(parts_.model->tokenizer().vocab_size()) {}

RouterCore::~RouterCore() = default;

std::optional<Principal> RouterCore::Authenticate(std::string_view bearer) const {
  std::optional<Principal> principal = parts_.identity->Authenticate(bearer);
  if (!principal) CountRejected(InvalidKey());
  return principal;
}

uint64_t RouterCore::Open(RequestInput input, std::shared_ptr<ClientStream> client) {
  const uint64_t id = next_request_++;
  auto owned = std::make_unique<Request>();
  Request& request = *owned;
  requests_.emplace(id, std::move(owned));
  request.id = id;
  request.client = std::move(client);
  request.input = std::move(input);
  request.arrived = request.stage_began = parts_.clock->Now();
  ++ledger_.admitted;
  ++ledger_.running;
  if (auto error = Check(request)) {
    Close(request, std::move(error), {});
    return id;
  }
  request_ids_.emplace(request.request_id, id);
  SetTimer(request, request.deadline);
  StartText(request);
  return id;
}

// In the contract's order (§10); the first hit decides.
std::optional<ApiError> RouterCore::Check(Request& request) {
  const RequestInput& input = request.input;
  request.request_id = MakeRequestId(parts_.random);
  const double timeout =
      input.timeout_seconds > 0 ? input.timeout_seconds : Seconds(settings_.request_timeout);
  request.timeout_seconds = std::min(timeout, Seconds(settings_.request_timeout_max));
  request.deadline = request.arrived + std::chrono::duration_cast<Duration>(
                                           std::chrono::duration<double>(request.timeout_seconds));
  const auto principal = parts_.identity->Authenticate(input.bearer);
  if (!principal) return InvalidKey();
  request.tenant = principal->tenant;
  request.key_id = principal->key_id;
  if (auto error = ValidateRequest(input, parts_.model->vocab_size())) return error;
  const std::string& wanted = input.resume ? input.resume->request_id : input.client_request_id;
  // A name that is in use stays with its request; ours is unique.
  if (!wanted.empty() && !request_ids_.contains(wanted)) request.request_id = wanted;
  if (input.model != settings_.model_name) return ModelNotFound(input.model, settings_.model_name);
  auto admitted =
      parts_.admission->Admit({request.tenant, request.key_id, input.model, input.source});
  if (auto* error = std::get_if<ApiError>(&admitted)) return std::move(*error);
  request.permit = std::move(std::get<std::unique_ptr<Permit>>(admitted));
  if (draining_) return Overloaded("draining", "this router is being drained", kRetryDraining);
  if (!input.resume && membership_.snapshot()->NumReady() == 0) {
    return Overloaded("not_ready", "no rank is ready", kRetryNotReady);
  }
  return std::nullopt;
}

void RouterCore::StartText(Request& request) {
  PrepareLimits limits;
  limits.context_length = membership_.context_length();
  // Drawn seeds are positive, so that they can be given back as they were reported.
  limits.seed = request.input.resume ? static_cast<uint64_t>(request.input.resume->seed)
                                     : parts_.random() >> 1;
  if (request.input.resume) request.input.sampling.seed = request.input.resume->seed;
  // The job owns copies of what it reads: the request may end meanwhile.
  auto input = std::make_shared<RequestInput>(std::move(request.input));
  request.input = {};
  request.input.route = input->route;
  request.input.model = input->model;
  request.input.source = input->source;
  request.input.trace_parent = input->trace_parent;
  request.input.resume = input->resume;
  auto result = std::make_shared<std::variant<PreparedRequest, ApiError>>();
  const bool taken =
      parts_.run_text([this, input, result,
                       limits] { *result = parts_.model->Prepare(*input, limits, *parts_.clock); },
                      [this, id = request.id, result] { OnText(id, std::move(*result)); });
  if (!taken) {
    Close(request, Overloaded("queue_full", "too many prompts are being read", 1), {});
  }
}

void RouterCore::OnText(uint64_t id, std::variant<PreparedRequest, ApiError> prepared) {
  const auto it = requests_.find(id);
  if (it == requests_.end() || it->second->stage != RequestStage::kText) return;  // ended meanwhile
  Request& request = *it->second;
  const MonoTime now = parts_.clock->Now();
  parts_.metrics->text_seconds.Observe(Seconds(now - request.stage_began));
  if (auto* error = std::get_if<ApiError>(&prepared)) {
    Close(request, std::move(*error), {});
    return;
  }
  request.prepared = std::move(std::get<PreparedRequest>(prepared));
  const PreparedRequest& ready = *request.prepared;
  const uint64_t tokens =
      ready.prompt.size() + uint64_t{ready.sampling.max_tokens} * ready.num_choices;
  if (auto error = request.permit->Reserve(tokens)) {
    Close(request, std::move(error), {});
    return;
  }
  request.stage = RequestStage::kIntent;
  request.stage_began = now;
  parts_.audit->Intent(
      AuditOf(request), ready.sampling, ready.prompt,
      [this, id](StatusOr<std::string> receipt) { OnIntent(id, std::move(receipt)); });
}

void RouterCore::OnIntent(uint64_t id, StatusOr<std::string> receipt) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  Request& request = *it->second;
  const MonoTime now = parts_.clock->Now();
  parts_.metrics->audit_seconds.Observe(Seconds(now - request.stage_began));
  if (!receipt.ok()) {
    CHOIR_LOG(error, "request {}: audit: {}", request.request_id, MessageOf(receipt.status()));
    Close(request, Overloaded("audit", "the audit log cannot be written", 5), {});
    return;
  }
  request.audit_receipt = *receipt;
  // From here on an intent is on record: whatever comes now ends in an outcome.
  request.dispatched = true;
  if (request.error) {
    Close(request, std::move(request.error), {});
    return;
  }
  StartRelay(request);
}

void RouterCore::StartRelay(Request& request) {
  PreparedRequest& prepared = *request.prepared;
  const MonoTime now = parts_.clock->Now();
  request.stage = RequestStage::kRunning;
  parts_.metrics->queue_seconds.Observe(Seconds(now - request.arrived));
  AcceptedInfo accepted;
  accepted.request_id = request.request_id;
  accepted.seed = static_cast<int64_t>(prepared.sampling.seed);
  accepted.prompt = prepared.prompt;
  accepted.audit_receipt = request.audit_receipt;
  request.client_full = !request.client->Accepted(accepted);
  RelayRequest relay;
  relay.request_id = request.request_id;
  relay.prompt = std::move(prepared.prompt);
  relay.sampling = std::move(prepared.sampling);
  relay.num_choices = prepared.num_choices;
  relay.text = std::move(prepared.text);
  relay.deadline = request.deadline;
  relay.timeout_seconds = request.timeout_seconds;
  if (request.input.resume) {
    relay.resume = std::move(request.input.resume->choices);
    parts_.metrics->resumed_streams.Increment();
    request.counted_as_resumed = true;
  }
  request.prepared.reset();
  Placer* const placer = this;
  request.relay = std::make_unique<Relay>(std::move(relay), RelayLimits{}, placer, &next_sequence_);
  Relay::Actions actions;
  request.relay->Start(now, &actions);
  Act(request, std::move(actions));
  parts_.metrics->dispatch_seconds.Observe(Seconds(parts_.clock->Now() - now));
}

void RouterCore::Act(Request& request, Relay::Actions actions) {
  for (RelayAction& action : actions) {
    if (auto* submit = std::get_if<SubmitAction>(&action)) {
      ActSubmit(request, *submit);
    } else if (auto* cancel = std::get_if<CancelSequenceAction>(&action)) {
      ActCancel(*cancel);
    } else if (auto* deliver = std::get_if<DeliverAction>(&action)) {
      request.client_full |= !request.client->Delta(std::move(deliver->delta));
    } else if (auto* finish = std::get_if<FinishAction>(&action)) {
      Close(request, std::nullopt, finish->usage);
      return;  // always the last action
    } else {
      Close(request, std::move(std::get<FailAction>(action).error), request.relay->usage());
      return;
    }
  }
  AfterRelay(request);
}

void RouterCore::AfterRelay(Request& request) {
  if (request.client_full) {
    Cancel(request.id, "the client reads more slowly than its buffer allows");
    return;
  }
  if (request.relay->waiting()) {
    waiting_.insert(request.id);
  } else {
    waiting_.erase(request.id);
  }
  SetTimer(request, request.relay->NextTimer());
}

void RouterCore::ActSubmit(Request& request, SubmitAction& submit) {
  LiveSequence sequence;
  sequence.request = request.id;
  sequence.worker = submit.worker;
  sequence.unanswered_tokens = submit.submit.token_ids.size();
  sequence.since = sequence.last_token = parts_.clock->Now();
  sequences_.emplace(submit.submit.id.value(), sequence);
  last_heard_.try_emplace(submit.worker, sequence.since);
  ++sequence_ledger_.submitted;
  parts_.links->Submit(submit.worker, std::move(submit.submit));
}

void RouterCore::ActCancel(const CancelSequenceAction& cancel) {
  parts_.links->Cancel(cancel.worker, cancel.id);
  const auto it = sequences_.find(cancel.id.value());
  if (it != sequences_.end()) it->second.cancelling = true;
}

void RouterCore::Cancel(uint64_t id, const std::string& why) {
  const auto it = requests_.find(id);
  if (it == requests_.end() || it->second->stage == RequestStage::kClosing) return;
  Request& request = *it->second;
  const ApiError error = ClientGone(why);
  if (request.stage == RequestStage::kRunning) {
    request.client_full = false;
    Relay::Actions actions;
    request.relay->Abort(error, &actions);
    Act(request, std::move(actions));
  } else if (request.stage == RequestStage::kIntent) {
    request.error = error;  // ends when the intent is on record
  } else {
    Close(request, error, {});
  }
}

// Ends the request towards admission and audit; its client hears of it when the audit has it.
void RouterCore::Close(Request& request, std::optional<ApiError> error, const Usage& usage) {
  CHOIR_CHECK(request.stage != RequestStage::kClosing);
  request.stage = RequestStage::kClosing;
  request.error = std::move(error);
  request.usage = usage;
  waiting_.erase(request.id);
  SetTimer(request, MonoTime{});
  if (request.permit) {
    request.permit->Settle(usage);
    request.permit->Release();
  }
  const uint64_t id = request.id;
  const int status = request.error ? request.error->http : 200;
  auto done = [this, id](std::string receipt) { OnClosed(id, receipt); };
  if (!request.dispatched) {
    parts_.audit->Refused(AuditOf(request), status, std::move(done));
    return;
  }
  AuditOutcome outcome;
  outcome.usage = usage;
  outcome.status = status;
  outcome.duration_seconds = Seconds(parts_.clock->Now() - request.arrived);
  if (request.relay) {
    outcome.replays = request.relay->replays();
    outcome.finish = request.relay->finish_reasons()[0];
  }
  parts_.audit->Outcome(AuditOf(request), outcome, std::move(done));
}

void RouterCore::OnClosed(uint64_t id, const std::string& receipt) {
  const auto it = requests_.find(id);
  CHOIR_CHECK(it != requests_.end());
  const std::unique_ptr<Request> request = std::move(it->second);
  requests_.erase(it);
  const auto named = request_ids_.find(request->request_id);
  if (named != request_ids_.end() && named->second == id) request_ids_.erase(named);
  --ledger_.running;
  const double seconds = Seconds(parts_.clock->Now() - request->arrived);
  const int code = request->error ? request->error->http : 200;
  parts_.metrics->OnEnd(request->tenant, code, seconds, request->usage);
  if (!request->error) {
    ++ledger_.finished;
    request->client->Done(request->usage);
    return;
  }
  if (request->dispatched) {
    ++ledger_.aborted;
  } else {
    ++ledger_.refused;
  }
  // With an intent on record it may still be refused: by every rank, or because none is left.
  const bool refused = !request->dispatched || (code == 503 && !request->first_token_seen);
  if (refused && code != 499) parts_.metrics->OnRejected(request->error->code);
  if (code >= 500) {
    CHOIR_LOG(warn, "request {}: {} {}: {}", request->request_id, code, request->error->code,
              request->error->message);
  }
  request->client->Fail(*request->error, receipt.empty() ? request->audit_receipt : receipt);
}

void RouterCore::SetTimer(Request& request, MonoTime when) {
  if (request.timer == when) return;
  if (request.timer != MonoTime{}) timers_.erase({request.timer, request.id});
  request.timer = when;
  if (when != MonoTime{}) timers_.emplace(when, request.id);
}

void RouterCore::TimeOut(Request& request) {
  const MonoTime now = parts_.clock->Now();
  if (request.stage == RequestStage::kRunning) {
    Relay::Actions actions;
    request.relay->OnTimer(now, &actions);
    Act(request, std::move(actions));
  } else if (request.stage == RequestStage::kIntent) {
    request.error = DeadlinePassed(request.timeout_seconds);
    SetTimer(request, MonoTime{});
  } else if (request.stage == RequestStage::kText) {
    Close(request, DeadlinePassed(request.timeout_seconds), {});
  }
}

void RouterCore::OnTimer() {
  const MonoTime now = parts_.clock->Now();
  CutStalledWorkers(now);
  // A timer that is set again meanwhile lies in the future, so this ends.
  std::vector<uint64_t> due;
  for (const auto& [when, id] : timers_) {
    if (when > now) break;
    due.push_back(id);
  }
  for (const uint64_t id : due) {
    const auto it = requests_.find(id);
    if (it != requests_.end()) TimeOut(*it->second);
  }
}

MonoTime RouterCore::NextTimer() const {
  return timers_.empty() ? MonoTime::max() : timers_.begin()->first;
}

void RouterCore::BeginDrain() {
  draining_ = true;
  parts_.metrics->draining.Set(1);
}

void RouterCore::AbortAll() {
  std::vector<uint64_t> ids;
  for (const auto& [id, request] : requests_) ids.push_back(id);
  const ApiError error = Overloaded("draining", "this router is going down", kRetryDraining);
  for (const uint64_t id : ids) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;
    Request& request = *it->second;
    if (request.stage == RequestStage::kRunning) {
      Relay::Actions actions;
      request.relay->Abort(error, &actions);
      Act(request, std::move(actions));
    } else if (request.stage == RequestStage::kIntent) {
      request.error = error;
    } else if (request.stage == RequestStage::kText) {
      Close(request, error, {});
    }
  }
}

AuditRequest RouterCore::AuditOf(const Request& request) const {
  AuditRequest audit;
  audit.request_id = request.request_id;
  audit.trace_parent = request.input.trace_parent;
  audit.tenant = request.tenant;
  audit.key_id = request.key_id;
  audit.source = request.input.source;
  audit.route = request.input.route;
  audit.model = request.input.model;
  return audit;
}

}  // namespace choir
