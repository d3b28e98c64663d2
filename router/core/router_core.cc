// A running request: from its dispatch to where it ends, which is router_closing.cc. How it comes
// to run is in router_admitting.cc, workers are in router_workers.cc, the status page in
// status_page.cc.
#include "router/core/router_core.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "router/policy/sticky_user.h"

namespace choir {
namespace {

// What a client is told to wait when the router's replacement takes over.
constexpr double kRetryDraining = 1;

}  // namespace

RouterCore::RouterCore(RouterSettings settings, RouterParts parts)
    : settings_(std::move(settings)),
      parts_(std::move(parts)),
      membership_(parts_.model->tokenizer().vocab_size(), settings_.breaker),
      policy_(MakePolicy(settings_.policy)),
      used_names_(settings_.used_names_max),
      retry_budget_(settings_.retry) {
  for (const std::string& name : std::exchange(parts_.used_names, {})) used_names_.Add(name);
}

RouterCore::~RouterCore() = default;

void RouterCore::StartRelay(Request& request) {
  PreparedRequest& prepared = *request.prepared;
  const MonoTime now = parts_.clock->Now();
  request.stage = RequestStage::kRunning;
  if (!request.recalled) request.permit->Placed();  // else it takes nobody's turn
  parts_.metrics->queue_seconds.Observe(Seconds(now - request.arrived));
  AcceptedInfo accepted;
  accepted.request_id = request.name;
  accepted.seed = static_cast<int64_t>(prepared.sampling.seed);
  accepted.prompt = prepared.prompt;
  accepted.audit_receipt = request.audit_receipt;
  accepted.limits = request.lease->readings();
  accepted.hides_tokens = prepared.text.rules != nullptr;
  accepted.recalled = request.recalled;
  request.client_full = !request.client->Accepted(accepted);
  RelayRequest relay;
  relay.request_id = request.request_id;
  relay.cache_salt = request.tenant();
  relay.prompt = std::move(prepared.prompt);
  TraceAdmitted(request, prepared.sampling, prepared.num_choices);
  relay.sampling = std::move(prepared.sampling);
  relay.num_choices = prepared.num_choices;
  relay.text = std::move(prepared.text);
  relay.echo = std::move(prepared.echo);
  relay.prefix = std::move(prepared.prefix);
  if (!request.input.session.empty()) {
    relay.session = SessionHash(request.tenant(), request.input.session);
  }
  relay.deadline = request.deadline;
  relay.timeout_seconds = request.timeout_seconds;
  relay.keep_logprobs = !request.input.resume_state.empty();
  if (request.input.resume) {
    relay.resume = std::move(request.input.resume->choices);
    parts_.metrics->resumed_streams.Increment();
    request.counted_as_resumed = true;
  }
  request.prepared.reset();
  if (!request.recalled) retry_budget_.OnRequest(now);
  Placer* const placer = this;
  request.relay = std::make_unique<Relay>(std::move(relay), RelayLimits{}, placer, &next_sequence_);
  Relay::Actions actions;
  if (request.known) {
    request.relay->Recall(*std::exchange(request.known, std::nullopt), &actions);
  } else {
    request.relay->Start(now, &actions);
  }
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
  sequence.unanswered_tokens = submit.counted_tokens;
  sequence.predicted_tokens = submit.predicted_tokens;
  sequence.since = sequence.last_token = parts_.clock->Now();
  const WorkerView* worker = membership_.Find(submit.worker);
  request.services.push_back(
      {.worker = worker == nullptr ? "" : worker->identity->worker_id,
       .epoch = worker == nullptr ? 0 : worker->epoch,
       .choice = submit.submit.choice,
       .from = submit.submit.token_ids.size() - submit.submit.num_prompt_tokens});
  sequence.span = BeginSequence(request, request.services.back(), &submit.submit);
  sequences_.emplace(submit.submit.id.value(), std::move(sequence));
  ++sequence_ledger_.submitted;
  parts_.links->Submit(submit.worker, std::move(submit.submit));
}

void RouterCore::ActCancel(const CancelSequenceAction& cancel) {
  parts_.links->Cancel(cancel.worker, cancel.id);
  const auto it = sequences_.find(cancel.id.value());
  if (it != sequences_.end()) it->second.cancelling = true;
}

void RouterCore::Cancel(uint64_t id, const std::string& why, const ClientStream* by) {
  Request* const kept = FindKept(id);
  if (kept == nullptr || (by != nullptr && kept->client.get() != by)) return;
  Request& request = *kept;
  if (parked_.contains(id)) return Unpark(id);
  if (request.stage == RequestStage::kClosing) return;
  ForgetDetached(request);
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
  } else if (request.stage != RequestStage::kClosing) {
    Close(request, DeadlinePassed(request.timeout_seconds), {});
  }
}

void RouterCore::OnTimer() {
  const MonoTime now = parts_.clock->Now();
  CutStalledWorkers(now);
  Reconcile(now);
  GiveUpDetached(now);
  membership_.OnTime(now);
  if (membership_.TakeReopened()) RetryWaiting();
  if (parts_.admission->anybody_waits()) {
    for (auto& [id, error] : parts_.admission->TakeExpired(now)) {
      Request* const request = InStage(id, RequestStage::kQueued);
      CHOIR_CHECK(request != nullptr);
      Close(*request, std::move(error), {});
    }
  }
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
  TakeTurns();
}

MonoTime RouterCore::NextTimer() const {
  const MonoTime now = parts_.clock->Now();
  if (turns_due_) return now;
  const MonoTime turn = parts_.admission->NextTimer(now);
  const MonoTime next = timers_.empty() ? MonoTime::max() : timers_.begin()->first;
  const MonoTime give_up = detached_.empty() ? MonoTime::max() : detached_.begin()->first;
  return std::min({next, give_up, turn, membership_.NextTimer()});
}

void RouterCore::AnnounceDrain() {
  announced_ = true;
  parts_.metrics->draining.Set(1);
}

void RouterCore::BeginDrain() {
  AnnounceDrain();
  draining_ = true;
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
    } else if (request.stage != RequestStage::kClosing) {
      Close(request, error, {});
    }
  }
}

}  // namespace choir
