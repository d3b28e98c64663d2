// What is told of a request to those who watch: its spans, and its line in the log. Neither carries
// content, nor text of the client's that could be.
#include <algorithm>

#include "common/base/log.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

const char* OperationOf(const std::string& route) {
  const bool chat = route.find("/chat/") != std::string::npos || route.ends_with("/Chat");
  return chat ? "chat" : "text_completion";
}

// Each worker once, in the order of their service.
std::string WorkersOf(const Request& request) {
  std::vector<std::string> names;
  for (const AuditService& service : request.services) {
    if (std::find(names.begin(), names.end(), service.worker) == names.end()) {
      names.push_back(service.worker);
    }
  }
  return fmt::format("{}", fmt::join(names, ","));
}

void AddUsage(const Request& request, std::vector<SpanAttribute>* to) {
  to->push_back({"gen_ai.usage.input_tokens", static_cast<int64_t>(request.usage.prompt_tokens)});
  to->push_back(
      {"gen_ai.usage.cache_read.input_tokens", static_cast<int64_t>(request.usage.cached_tokens)});
  to->push_back({"gen_ai.usage.output_tokens", static_cast<int64_t>(request.usage.output_tokens)});
}

}  // namespace

void RouterCore::BeginTrace(Request& request) const {
  if (parts_.tracer == nullptr) return;  // what came is passed on
  request.span = parts_.tracer->Begin(request.input.trace_parent);
  request.input.trace_parent = parts_.tracer->TraceParent(request.span);
}

// It was admitted, read and put on record, and runs from now on.
void RouterCore::TraceAdmitted(Request& request, const SequenceSampling& sampling,
                               uint32_t num_choices) const {
  if (!request.span.recorded()) return;
  OpenSpan admit = parts_.tracer->BeginChild(request.span);
  admit.began = request.arrived;
  parts_.tracer->End(admit, {.name = "admit"});
  request.asked = {{"gen_ai.request.max_tokens", static_cast<int64_t>(sampling.max_tokens)},
                   {"gen_ai.request.temperature", sampling.temperature},
                   {"gen_ai.request.top_p", sampling.top_p},
                   {"gen_ai.request.choice.count", static_cast<int64_t>(num_choices)}};
}

std::shared_ptr<const SequenceSpan> RouterCore::BeginSequence(const Request& request,
                                                              const AuditService& service,
                                                              SequenceSubmit* submit) const {
  submit->trace_parent = request.input.trace_parent;
  if (!request.span.recorded()) return nullptr;
  auto span = std::make_shared<SequenceSpan>();
  span->open = parts_.tracer->BeginChild(request.span);
  span->worker = service.worker;
  span->epoch = static_cast<int64_t>(service.epoch);
  span->choice = service.choice;
  span->from = static_cast<int64_t>(service.from);
  submit->trace_parent = parts_.tracer->TraceParent(span->open);
  return span;
}

// `error` empty: it ended as it should.
void RouterCore::TraceSequence(const SequenceSpan* sequence, const char* end,
                               const char* error) const {
  if (sequence == nullptr) return;
  Span span{.name = "sequence", .kind = SpanKind::kClient};
  span.attributes = {{"choir.worker", sequence->worker},
                     {"choir.epoch", sequence->epoch},
                     {"choir.choice", sequence->choice},
                     {"choir.replayed_tokens", sequence->from},
                     {"choir.end", end}};
  span.error = error;
  parts_.tracer->End(sequence->open, std::move(span));
}

void RouterCore::TraceEnd(const Request& request, int status) const {
  if (!request.span.recorded()) return;
  const char* const operation = OperationOf(request.input.route);
  Span span{.name = operation, .kind = SpanKind::kServer};
  span.attributes = {{"gen_ai.operation.name", operation},
                     {"gen_ai.provider.name", "choir"},
                     {"choir.request_id", request.request_id},
                     {"choir.tenant", request.tenant()},
                     {"http.response.status_code", static_cast<int64_t>(status)}};
  if (request.input.model == settings_.model_name) {
    span.name += " " + settings_.model_name;
    span.attributes.push_back({"gen_ai.request.model", settings_.model_name});
    span.attributes.push_back({"gen_ai.response.model", settings_.model_name});
  }
  span.attributes.insert(span.attributes.end(), request.asked.begin(), request.asked.end());
  if (request.relay != nullptr) {
    AddUsage(request, &span.attributes);
    std::vector<std::string> reasons = request.relay->finish_reasons();
    std::erase(reasons, "");
    span.attributes.push_back({"gen_ai.response.finish_reasons", std::move(reasons)});
    span.attributes.push_back({"choir.replays", static_cast<int64_t>(request.relay->replays())});
    span.attributes.push_back({"choir.recalled", request.recalled});
  }
  if (request.first_token_seen) {
    span.attributes.push_back(
        {"gen_ai.server.time_to_first_token", Seconds(request.first_token - request.arrived)});
    span.events.emplace_back("first token", parts_.tracer->WallNs(request.first_token));
  }
  if (request.error) {
    span.error = request.error->code;
    span.attributes.push_back({"error.type", request.error->code});
  }
  parts_.tracer->End(request.span, std::move(span));
}

// The one line of each request. The message of an error only where it is ours: others may quote
// the prompt, as a template's does.
void RouterCore::LogEnd(const Request& request, int status, double seconds) const {
  const auto level = status >= 500 ? spdlog::level::warn : spdlog::level::info;
  if (!spdlog::should_log(level)) return;
  const bool served = request.relay != nullptr;
  decltype(LogField::value) ttft_ms;  // no token: none
  if (request.first_token_seen) ttft_ms = Seconds(request.first_token - request.arrived) * 1e3;
  const auto tokens = [](uint64_t n) { return static_cast<int64_t>(n); };
  LogFields(level, "request",
            {{"request_id", request.request_id},
             {"client_request_id", request.client_request_id},
             {"trace_id", TraceIdOf(request.input.trace_parent)},
             {"tenant", request.tenant()},
             {"route", request.input.route},
             {"status", static_cast<int64_t>(status)},
             {"error", request.error ? request.error->code : ""},
             {"reason", status >= 500 ? request.error->message : ""},
             {"finish", served ? request.relay->finish_reasons()[0] : ""},
             {"prompt_tokens", tokens(request.usage.prompt_tokens)},
             {"cached_tokens", tokens(request.usage.cached_tokens)},
             {"output_tokens", tokens(request.usage.output_tokens)},
             {"ttft_ms", ttft_ms},
             {"duration_ms", seconds * 1e3},
             {"replays", served ? static_cast<int64_t>(request.relay->replays()) : 0},
             {"recalled", request.recalled ? "yes" : ""},
             {"workers", WorkersOf(request)}});
}

// Of one that was refused before it was opened.
void RouterCore::LogRefusal(const AuditRefusal& refusal) {
  LogFields(spdlog::level::info, "request",
            {{"request_id", refusal.request.request_id},
             {"client_request_id", refusal.request.client_request_id},
             {"tenant", refusal.request.tenant},
             {"route", refusal.request.route},
             {"status", static_cast<int64_t>(refusal.status)},
             {"error", refusal.code}});
}

}  // namespace choir
