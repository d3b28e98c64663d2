// How a request comes to run, from Open to the intent on record, in the contract's order (§10).
#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/base/request_id.h"
#include "router/core/input_rules.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

// What a client is told to wait when a rank comes back or the router's replacement takes over.
constexpr double kRetryNotReady = 2;
constexpr double kRetryDraining = 1;

std::string MakeRequestId(const std::function<uint64_t()>& random) {
  const uint64_t first = random();
  return FormatRequestId(first, random());
}

// What the owner thread reads itself, in a fraction of the time that it takes to wake another.
bool IsShort(const RequestInput& input) {
  constexpr size_t kIdsMax = 4096;
  constexpr size_t kBytesMax = 256;
  if (const auto* ids = std::get_if<PromptIds>(&input.content)) {
    return ids->ids.size() <= kIdsMax && !input.echo;
  }
  const auto* text = std::get_if<PromptText>(&input.content);
  return text != nullptr && text->text.size() <= kBytesMax;
}

}  // namespace

void RouterCore::Authenticate(const std::string& bearer, const CallerInfo& caller,
                              AuthenticateDone done) {
  const auto principal = parts_.identity->Authenticate(bearer, caller.certificate);
  // One that is not served is refused by whoever asked; it may be any bytes.
  const std::string model = caller.model == settings_.model_name ? caller.model : "";
  std::optional<ApiError> error;
  if (!principal) {
    error = InvalidKey();
  } else if (caller.check_rights) {
    error = CheckRights(*principal->rights, model, caller.source);
  }
  if (!error) return done(*principal);
  CountRejected(*error);
  AuditRefusal refusal{.status = error->http, .code = error->code};
  refusal.request.request_id = MakeRequestId(parts_.random);
  if (IsRequestId(caller.client_request_id)) {
    refusal.request.client_request_id = caller.client_request_id;
  }
  refusal.request.source = caller.source;
  refusal.request.route = caller.route;
  refusal.request.model = model;
  if (principal) Name(*principal, &refusal.request);
  LogRefusal(refusal);
  parts_.audit->Refused(std::move(refusal), [done = std::move(done), error = *std::move(error)](
                                                StatusOr<std::string> receipt) {
    done(Denied{error, receipt.ok() ? *receipt : ""});
  });
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
  BeginTrace(request);
  ++ledger_.admitted;
  ++ledger_.running;
  if (auto error = Check(request)) {
    Close(request, std::move(error), {});
    return id;
  }
  request_ids_.emplace(std::pair(request.tenant(), request.name), id);
  SetTimer(request, request.deadline);
  parts_.limits->Admit({.tenant = request.tenant(),
                        .key_id = request.key_id(),
                        .model = request.input.model,
                        .key_rules = request.principal->rights->limits,
                        .resumed = request.input.resume.has_value()},
                       [this, id](std::variant<std::unique_ptr<LimitLease>, ApiError> admitted) {
                         OnLimits(id, std::move(admitted));
                       });
  return id;
}

// Refusals are named too. The client's name is the request's unless its tenant has that in use. On
// record it stands for the first request in this log that had it; others have an id of ours there,
// with the client's name beside it: so do those that were begun elsewhere, which this log may know,
// and those of nobody, who could take names that are others'.
void RouterCore::TakeName(Request& request) {
  const RequestInput& input = request.input;
  const std::string& given = input.client_request_id;
  const std::string& wanted = input.resume ? input.resume->request_id : given;
  request.name = request.request_id = MakeRequestId(parts_.random);
  if (!IsRequestId(wanted)) return;
  const bool in_use = request_ids_.contains({request.tenant(), wanted});
  if (!in_use) request.name = wanted;
  const bool on_record = IsMadeRequestId(wanted) || used_names_.Has(wanted);
  if (request.principal && !input.resume && !in_use && !on_record) {
    request.request_id = wanted;
    used_names_.Add(wanted);
  } else {
    request.client_request_id = IsRequestId(given) ? given : wanted;
  }
}

// In the contract's order (§10); the first hit decides.
std::optional<ApiError> RouterCore::Check(Request& request) {
  const RequestInput& input = request.input;
  const double timeout =
      input.timeout_seconds > 0 ? input.timeout_seconds : Seconds(settings_.request_timeout);
  request.timeout_seconds = std::min(timeout, Seconds(settings_.request_timeout_max));
  request.deadline = request.arrived + std::chrono::duration_cast<Duration>(
                                           std::chrono::duration<double>(request.timeout_seconds));
  request.principal = parts_.identity->Authenticate(input.bearer, input.certificate);
  if (request.principal && input.resume) {
    EndPredecessor(input.resume->request_id, request.tenant());
  }
  TakeName(request);
  if (!request.principal) return InvalidKey();
  if (auto error = ValidateRequest(input, parts_.model->vocab_size())) return error;
  if (input.model != settings_.model_name) return ModelNotFound(input.model, settings_.model_name);
  if (auto error = CheckRights(*request.principal->rights, input.model, input.source)) return error;
  if (auto error = CheckClass(request)) return error;
  if (parts_.content == nullptr) return std::nullopt;
  request.input.input_rules = parts_.content->InputFor(request.tenant());
  request.input.output_rules = parts_.content->OutputFor(request.tenant());
  if (request.input.output_rules == nullptr || !input.sampling.logprobs) return std::nullopt;
  return InvalidParam("logprobs",
                      "logprobs are not given where content rules hold for the answer: they would "
                      "show what the rules hide");
}

// Null: it ended meanwhile, or is beyond that stage.
Request* RouterCore::InStage(uint64_t id, RequestStage stage) {
  const auto it = requests_.find(id);
  return it == requests_.end() || it->second->stage != stage ? nullptr : it->second.get();
}

void RouterCore::OnLimits(uint64_t id,
                          std::variant<std::unique_ptr<LimitLease>, ApiError> admitted) {
  Request* const request = InStage(id, RequestStage::kLimits);
  if (request == nullptr) return;
  if (auto* error = std::get_if<ApiError>(&admitted)) {
    return Close(*request, std::move(*error), {});
  }
  request->lease = std::move(std::get<std::unique_ptr<LimitLease>>(admitted));
  if (auto error = Enter(*request)) return Close(*request, std::move(error), {});
  StartText(*request);
}

std::optional<ApiError> RouterCore::Enter(Request& request) {
  TellCapacity();
  auto admitted = parts_.admission->Enter(AdmitRequestOf(request), parts_.clock->Now());
  if (auto* error = std::get_if<ApiError>(&admitted)) return std::move(*error);
  request.permit = std::move(std::get<std::unique_ptr<Permit>>(admitted));
  return CheckServing(request.input.resume.has_value());
}

std::optional<ApiError> RouterCore::CheckServing(bool resumed) const {
  if (draining_) return Overloaded("draining", "this router is being drained", kRetryDraining);
  if (!resumed && membership_.num_ready() == 0) {
    return Overloaded("not_ready", "no rank is ready", kRetryNotReady);
  }
  return std::nullopt;
}

void RouterCore::StartText(Request& request) {
  request.stage = RequestStage::kText;
  PrepareLimits limits = TextLimits(request.tenant());
  // Drawn seeds are positive, so that they can be given back as they were reported.
  limits.seed = request.input.resume ? static_cast<uint64_t>(request.input.resume->seed)
                                     : parts_.random() >> 1;
  if (request.input.resume) request.input.sampling.seed = request.input.resume->seed;
  request.seeded = request.input.sampling.seed.has_value();
  request.may_recall = !request.input.no_cache && !request.input.resume;
  // The job owns copies of what it reads: the request may end meanwhile.
  auto input = std::make_shared<RequestInput>(std::move(request.input));
  request.input = {};
  request.input.route = input->route;
  request.input.model = input->model;
  request.input.source = input->source;
  request.input.trace_parent = input->trace_parent;
  request.input.session = input->session;
  request.input.resume = input->resume;
  request.input.resume_state = input->resume_state;
  if (IsShort(*input)) {
    return OnText(request.id, ReadPrompt(input.get(), limits));
  }
  auto result = std::make_shared<PromptRead>();
  const bool taken =
      parts_.run_text([this, input, result, limits] { *result = ReadPrompt(input.get(), limits); },
                      [this, id = request.id, result] { OnText(id, std::move(*result)); });
  if (!taken) {
    Close(request, Overloaded("queue_full", "too many prompts are being read", 1), {});
  }
}

// Any thread: reads only what never changes.
PromptRead RouterCore::ReadPrompt(RequestInput* input, const PrepareLimits& limits) const {
  PromptRead read;
  if (auto error = ApplyInputRules(parts_.model->tokenizer(), input, &read.hits)) {
    read.prepared = *std::move(error);
    return read;
  }
  read.prepared = parts_.model->Prepare(*input, limits, *parts_.clock, &read.hits);
  if (auto* prepared = std::get_if<PreparedRequest>(&read.prepared)) {
    prepared->text.rules = input->output_rules;
  }
  return read;
}

void RouterCore::OnText(uint64_t id, PromptRead read) {
  Request* const owned = InStage(id, RequestStage::kText);
  if (owned == nullptr) return;
  Request& request = *owned;
  parts_.metrics->text_seconds.Observe(Seconds(parts_.clock->Now() - request.stage_began));
  request.input_hits = std::move(read.hits);
  if (auto* error = std::get_if<ApiError>(&read.prepared)) {
    return Close(request, std::move(*error), {});
  }
  request.prepared = std::move(std::get<PreparedRequest>(read.prepared));
  if (!LookUp(request)) Reserve(request);
}

void RouterCore::Reserve(Request& request) {
  const PreparedRequest& ready = *request.prepared;
  const TokenNeed need = {.prompt = ready.prompt.size(),
                          .output_max = uint64_t{ready.sampling.max_tokens} * ready.num_choices};
  request.stage = RequestStage::kReserve;
  request.lease->Reserve(need, [this, id = request.id](std::optional<ApiError> refused) {
    OnReserved(id, std::move(refused));
  });
}

void RouterCore::OnReserved(uint64_t id, std::optional<ApiError> refused) {
  Request* const owned = InStage(id, RequestStage::kReserve);
  if (owned == nullptr) return;
  Request& request = *owned;
  if (refused) return Close(request, std::move(refused), {});
  request.stage = RequestStage::kQueued;
  request.stage_began = parts_.clock->Now();
  TellCapacity();
  refused = parts_.admission->Wait(*request.permit, WorkOf(*request.prepared), request.stage_began);
  if (refused) return Close(request, std::move(refused), {});
  if (request.permit->may_run()) return OnTurn(request);
  TakeTurns();
}

// It may run: first that goes on record.
void RouterCore::OnTurn(Request& request) {
  parts_.metrics->admission.OnTurn(*request.permit,
                                   Seconds(parts_.clock->Now() - request.stage_began));
  // Workers keep to the order of classes, too; who had waited for too long goes first there.
  request.prepared->sampling.priority =
      request.permit->aged() ? 0 : static_cast<int32_t>(*request.admission_class);
  PutIntent(request);
}

void RouterCore::PutIntent(Request& request) {
  const uint64_t id = request.id;
  const MonoTime now = parts_.clock->Now();
  const PreparedRequest& ready = *request.prepared;
  request.stage = RequestStage::kIntent;
  request.stage_began = now;
  AuditIntent intent{.request = AuditOf(request),
                     .sampling = ready.sampling,
                     .num_choices = ready.num_choices,
                     .stop = ready.text.stops,
                     .prompt = ready.prompt,
                     .limit_rule = request.lease->rule(),
                     .content_hits = request.input_hits,
                     .queue_ms = Seconds(now - request.arrived) * 1e3};
  if (request.input.resume) intent.continues = request.input.resume->audit_receipt;
  parts_.audit->Intent(std::move(intent), [this, id](StatusOr<std::string> receipt) {
    OnIntent(id, std::move(receipt));
  });
}

void RouterCore::OnIntent(uint64_t id, StatusOr<std::string> receipt) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  Request& request = *it->second;
  const MonoTime now = parts_.clock->Now();
  parts_.metrics->audit_seconds.Observe(Seconds(now - request.stage_began));
  if (!receipt.ok()) {
    LogFields(
        spdlog::level::err, "audit: " + MessageOf(receipt.status()),
        {{"request_id", request.request_id}, {"trace_id", TraceIdOf(request.input.trace_parent)}});
    Close(request,
          Overloaded("audit", "the audit log cannot be written", /*retry_after_seconds=*/5), {});
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

}  // namespace choir
