// How a request ends: towards admission, the audit log, the ledger and its client.
#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "router/core/router_core.h"

namespace choir {

void RouterCore::Name(const Principal& principal, AuditRequest* audit) {
  audit->tenant = principal.tenant;
  audit->principal = principal.name;
  audit->key_fp = principal.fingerprint;
  audit->auth = principal.auth;
}

// Ends the request towards admission and audit; its client hears of it when the audit has it.
void RouterCore::Close(Request& request, std::optional<ApiError> error, const Usage& usage) {
  CHOIR_CHECK(request.stage != RequestStage::kClosing);
  request.stage = RequestStage::kClosing;
  request.error = std::move(error);
  request.usage = usage;
  waiting_.erase(request.id);
  SetTimer(request, MonoTime{});
  if (request.error) {
    request.limits = request.error->limits;
    parts_.metrics->admission.OnRefused(request.error->limit_rule);
  }
  if (request.lease) {
    if (request.limits.empty()) request.limits = request.lease->readings();
    // What this service refuses for its own reasons was no request.
    const bool refused = !request.dispatched && request.error &&
                         (request.error->http == 429 || request.error->http == 503);
    if (refused) {
      request.lease->Withdraw();
    } else {
      request.lease->Settle(request.recalled ? Usage{} : usage);
    }
    request.lease.reset();
  }
  if (request.permit) {
    const uint64_t computed = uint64_t{usage.prompt_tokens} + usage.output_tokens -
                              std::min(usage.cached_tokens, usage.prompt_tokens);
    const double choices = request.relay ? request.relay->num_choices() : 1;
    request.permit->End({.tokens = computed,
                         .output_tokens = usage.output_tokens / choices,
                         .ended_well = !request.error},
                        parts_.clock->Now());
    request.permit.reset();
    turns_due_ = true;
  }
  if (!request.error) KeepAnswer(request);
  const uint64_t id = request.id;
  const int status = request.error ? request.error->http : 200;
  auto done = [this, id](StatusOr<std::string> receipt) { OnClosed(id, std::move(receipt)); };
  const double duration_ms = Seconds(parts_.clock->Now() - request.arrived) * 1e3;
  if (!request.dispatched) {
    AuditRefusal refusal{.request = AuditOf(request),
                         .status = status,
                         .code = request.error->code,
                         .limit_rule = request.error->limit_rule,
                         .duration_ms = duration_ms,
                         .content_hits = request.input_hits};
    parts_.audit->Refused(std::move(refusal), std::move(done));
    return;
  }
  parts_.audit->Outcome(OutcomeOf(request, duration_ms), std::move(done));
}

AuditOutcome RouterCore::OutcomeOf(const Request& request, double duration_ms) const {
  AuditOutcome outcome{
      .request = AuditOf(request), .usage = request.usage, .recalled = request.recalled};
  outcome.status = request.error ? request.error->http : 200;
  if (request.error) outcome.code = request.error->code;
  outcome.workers = request.services;
  outcome.duration_ms = duration_ms;
  if (request.first_token_seen) {
    outcome.ttft_ms = Seconds(request.first_token - request.arrived) * 1e3;
  }
  if (!request.relay) return outcome;
  outcome.finish = request.relay->finish_reasons()[0];
  outcome.content_hits = request.relay->content_hits();
  for (uint32_t choice = 0; choice < request.relay->num_choices(); ++choice) {
    outcome.outputs.push_back(request.relay->committed(choice));
  }
  return outcome;
}

void RouterCore::OnClosed(uint64_t id, StatusOr<std::string> recorded) {
  const auto it = requests_.find(id);
  CHOIR_CHECK(it != requests_.end());
  std::unique_ptr<Request> request = std::move(it->second);
  const std::string receipt = recorded.ok() ? *std::move(recorded) : "";
  // A refusal is one whether it is on record or not; an answer without its record is none.
  if (!recorded.ok() && request->dispatched && !request->error) {
    request->error =
        Overloaded("audit", "the outcome cannot be put on record", /*retry_after_seconds=*/5);
  }
  requests_.erase(it);
  ForgetName(*request);
  --ledger_.running;
  const double seconds = Seconds(parts_.clock->Now() - request->arrived);
  const int code = request->error ? request->error->http : 200;
  Usage counted = request->usage;
  if (request->recalled) counted.cached_tokens = 0;  // no worker had them
  parts_.metrics->OnEnd(request->tenant(), code, seconds, counted);
  TraceEnd(*request, code);
  LogEnd(*request, code, seconds);
  if (!request->error) {
    ++ledger_.finished;
    request->client->Done(request->usage);
    return ParkOrForget(std::move(request));
  }
  if (request->dispatched) {
    ++ledger_.aborted;
  } else {
    ++ledger_.refused;
  }
  // With an intent on record it may still be refused: by every rank, or because none is left.
  const bool refused = !request->dispatched || (code == 503 && !request->first_token_seen);
  if (refused && code != 499) parts_.metrics->OnRejected(request->error->code);
  request->client->Fail(*request->error,
                        {request->name, receipt.empty() ? request->audit_receipt : receipt,
                         std::move(request->limits)});
  ParkOrForget(std::move(request));
}

AuditRequest RouterCore::AuditOf(const Request& request) const {
  AuditRequest audit;
  audit.request_id = request.request_id;
  audit.client_request_id = request.client_request_id;
  audit.trace_parent = request.input.trace_parent;
  if (request.principal) Name(*request.principal, &audit);
  audit.numerics_id = model_info().numerics_id;
  audit.source = request.input.source;
  audit.route = request.input.route;
  audit.model = request.input.model;
  if (request.admission_class) audit.admission_class = AdmissionClassName(*request.admission_class);
  return audit;
}

}  // namespace choir
