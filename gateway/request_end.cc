// What is told of a request to those who watch: its span and its line in the log.
#include "common/base/log.h"
#include "gateway/gateway_routes.h"
#include "gateway/http/request_id.h"

namespace choir {

// What is malformed or absent begins a trace here.
void GatewayService::BeginTrace(const HttpHead& head, Answer* answer) const {
  answer->span = tracer_->Begin(std::string(head.Field("traceparent")));
  answer->trace_parent = tracer_->TraceParent(answer->span);
}

void GatewayService::TellEnd(const HttpHead& head, const Route& route, const Answer& answer,
                             double seconds) const {
  // A method that is none of ours may be any word.
  const std::string method = route.method == nullptr ? "HTTP" : head.method;
  const std::string given = GivenRequestId(head);
  LogFields(answer.code >= 500 ? spdlog::level::warn : spdlog::level::info, "request",
            {{"request_id", answer.request_id},
             {"client_request_id", given != answer.request_id ? given : ""},
             {"trace_id", answer.span.parent.trace_id},
             {"method", method},
             {"route", route.name},
             {"status", int64_t{answer.code}},
             {"error", answer.error},
             {"duration_ms", seconds * 1e3}});
  if (!answer.span.recorded()) return;
  Span span{.name = method + " " + route.name, .kind = SpanKind::kServer};
  span.attributes = {{"http.request.method", method},
                     {"http.route", route.name},
                     {"http.response.status_code", int64_t{answer.code}},
                     {"choir.request_id", answer.request_id}};
  if (!answer.error.empty()) span.attributes.push_back({"error.type", answer.error});
  if (answer.code >= 500) span.error = answer.error;
  tracer_->End(answer.span, std::move(span));
}

void GatewayService::CountRefused(int status, const std::string& request_id) {
  const GatewayMetrics::RunningRequest running(metrics_);
  metrics_->RequestFinished(kOtherRoute, status, 0);
  LogFields(spdlog::level::info, "request",
            {{"request_id", request_id},
             {"route", kOtherRoute},
             {"status", int64_t{status}},
             {"error", "refused header"}});
}

}  // namespace choir
