#include "gateway/gateway_service.h"

#include <algorithm>
#include <ctime>
#include <optional>
#include <utility>

#include "common/base/cache_control.h"
#include "gateway/cors.h"
#include "gateway/gateway_routes.h"
#include "gateway/http/request_id.h"
#include "gateway/request_headers.h"
#include "gateway/router_reply.h"
#include "gateway/stream_answer.h"
#include "gateway/upstream.h"

namespace choir {
namespace asio = boost::asio;
using asio::awaitable;

namespace {

struct RouteRow {
  const char* path;
  const char* method;
  RouteKind kind;
  bool deepseek;
};

constexpr RouteRow kRoutes[] = {
    {"/v1/chat/completions", "POST", RouteKind::kChat, false},
    {"/v1/completions", "POST", RouteKind::kCompletions, false},
    {"/v1/models", "GET", RouteKind::kModels, false},
    {"/v1/choir/status", "GET", RouteKind::kStatus, false},
    {"/v1/choir/route", "POST", RouteKind::kExplain, false},
    {"/chat/completions", "POST", RouteKind::kChat, true},
    {"/beta/completions", "POST", RouteKind::kCompletions, true},
    {"/models", "GET", RouteKind::kModels, true},
};
constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr const char* kModelRoute = "/v1/models/{id}";  // metrics' labels
constexpr std::string_view kStreamPrefix = "/v1/streams/";
constexpr const char* kStreamRoute = "/v1/streams/{id}";

bool IsGet(RouteKind kind) {
  return kind == RouteKind::kModels || kind == RouteKind::kModel || kind == RouteKind::kStatus;
}

}  // namespace

GatewayService::GatewayService(asio::io_context& io, EdgeClient* edge, GatewayMetrics* metrics,
                               const Tracer* tracer, GatewayOptions options)
    : io_(io), edge_(edge), metrics_(metrics), tracer_(tracer), options_(options) {
  for (const RouteRow& row : kRoutes) metrics_->AddRoute(row.path);
  for (const char* route : {kModelRoute, kStreamRoute, kOtherRoute}) metrics_->AddRoute(route);
}

awaitable<void> GatewayService::RespondError(HttpExchange& exchange, RestError error,
                                             Answer* answer) {
  answer->code = error.http;
  answer->error = error.code;
  HttpFields fields = ErrorFields(error);
  if (answer->request_id.empty()) answer->request_id = error.request_id;
  if (!answer->request_id.empty()) fields.emplace_back("x-request-id", answer->request_id);
  std::string body = ErrorBody(error);
  (void)co_await exchange.Respond(error.http, std::move(fields), std::move(body));
}

awaitable<RestError> GatewayService::Authenticate(HttpExchange& exchange, const Route& route,
                                                  EdgeAnswer* answer) {
  // What has no body is answered from here; the rest is judged again when its request is read.
  EdgeCaller caller{
      .bearer = BearerOf(exchange.head()),
      .source = ClientOf(exchange.head(), exchange.source(), options_.trusted_proxies),
      .route = route.name,
      .want_status = route.kind == RouteKind::kStatus,
      .check_rights = IsGet(route.kind),
      .model = route.kind == RouteKind::kModel ? route.id : "",
      .request_id = GivenRequestId(exchange.head())};
  if (caller.bearer.empty()) {
    co_return RestError{.http = 401,
                        .type = "authentication_error",
                        .code = "invalid_api_key",
                        .message = "no API key: send it as 'Authorization: Bearer KEY'"};
  }
  if (caller.request_id.empty()) caller.request_id = MakeRequestId();
  auto reply = std::make_shared<RouterReply<EdgeAnswer>>(io_);
  const std::string name = caller.request_id;
  edge_->Authenticate(std::move(caller), [reply, name](RestError error, EdgeAnswer told) {
    if (!error.ok()) error.request_id = name;  // as it is on record
    reply->Set(std::move(error), std::move(told));
  });
  if (!co_await reply->Wait(std::chrono::seconds(10))) {
    co_return RestError{.http = 503,
                        .type = "overloaded_error",
                        .code = "not_ready",
                        .message = "the router did not answer in time",
                        .retry_after_seconds = 1};
  }
  *answer = std::move(reply->value());
  co_return reply->error();
}

awaitable<void> GatewayService::HandleModels(HttpExchange& exchange, const std::string& id,
                                             const std::vector<std::string>& allowed,
                                             Answer* answer) {
  uint32_t timeout_ms = 0;  // nothing here takes time, but a bad header is an error everywhere
  RestError bad_header = CheckHeaders(exchange.head(), &timeout_ms);
  if (!bad_header.ok()) co_return co_await RespondError(exchange, std::move(bad_header), answer);
  std::vector<ApiModel> models = edge_->models();
  std::erase_if(models, [&](const ApiModel& m) {
    return !allowed.empty() && std::find(allowed.begin(), allowed.end(), m.id) == allowed.end();
  });
  std::string body;
  if (id.empty()) {
    body = ModelListBody(models);
  } else {
    for (const ApiModel& m : models) {
      if (m.id == id) body = ModelBody(m);
    }
    if (body.empty()) {
      RestError error{.http = 404,
                      .type = "invalid_request_error",
                      .code = "model_not_found",
                      .message = "there is no model '" + id + "'; GET /v1/models lists them",
                      .param = "model"};
      co_return co_await RespondError(exchange, std::move(error), answer);
    }
  }
  answer->code = 200;
  HttpFields fields = {{"content-type", "application/json"}};
  (void)co_await exchange.Respond(200, std::move(fields), std::move(body));
}

awaitable<RestError> GatewayService::ReadRequest(HttpExchange& exchange, const Route& route,
                                                 ApiRequest* request, EdgeOpenInfo* info) {
  const HttpHead& head = exchange.head();
  std::string body;
  const HttpError read = co_await exchange.ReadBody(&body);
  if (read.status != 0) {
    co_return RestError{.http = read.status,
                        .type = "invalid_request_error",
                        .code = read.status == 413 ? "request_too_large" : "invalid_value",
                        .message = read.message};
  }
  RestError error = CheckHeaders(head, &info->timeout_ms);
  if (!error.ok()) co_return error;
  if (const std::string_view coding = head.Field("content-encoding");
      !coding.empty() && coding != "identity") {
    co_return InvalidValue("content-encoding", "content-encoding: only identity is understood");
  }
  error = route.kind == RouteKind::kExplain ? ParseAnyRequest(body, request)
          : route.kind == RouteKind::kChat  ? ParseChatRequest(body, request)
                                            : ParseCompletionRequest(body, request);
  if (!error.ok()) {
    if (route.deepseek && !error.malformed) error.http = 422;
    co_return error;
  }
  co_return FillInfo(exchange, head.path, info);
}

// What goes with every request to the router.
RestError GatewayService::FillInfo(const HttpExchange& exchange, std::string route,
                                   EdgeOpenInfo* info) const {
  if (draining_) {
    return {.http = 503,
            .type = "overloaded_error",
            .code = "draining",
            .message = "this gateway is draining; another one serves",
            .retry_after_seconds = 1};
  }
  const HttpHead& head = exchange.head();
  info->bearer = BearerOf(head);
  info->source = ClientOf(head, exchange.source(), options_.trusted_proxies);
  info->route = std::move(route);
  info->client_request_id = std::string(head.Field("x-request-id"));
  info->session = std::string(head.Field("x-choir-session"));
  info->no_cache = IsNoCache(head.Field("cache-control"));
  info->admission_class = std::string(head.Field("x-choir-class"));
  if (info->timeout_ms == 0) {
    info->timeout_ms = static_cast<uint32_t>(Seconds(options_.request_timeout) * 1000);
  }
  return {};
}

awaitable<void> GatewayService::AnswerFromUpstream(HttpExchange& exchange, Upstream& upstream,
                                                   const ApiRequest& request, StreamStart start,
                                                   Answer* answer) {
  while (!upstream.accepted()) {
    if (upstream.failed() || upstream.client_gone()) co_return;
    (void)co_await upstream.Wait(std::chrono::hours(1));
  }
  answer->request_id = upstream.accepted_info().request_id;
  if (request.stream) {
    metrics_->StreamOpened();
    answer->code = co_await StreamAnswer(exchange, upstream, request, std::move(start), metrics_);
    metrics_->StreamClosed();
    co_return;
  }
  ResponseCollector whole(request, {answer->request_id, request.model, start.created});
  while (true) {
    const bool done = upstream.done();
    for (const ApiDelta& delta : upstream.TakeDeltas()) whole.Add(delta);
    if (upstream.failed() || upstream.client_gone()) co_return;
    if (done) break;
    (void)co_await upstream.Wait(std::chrono::hours(1));
  }
  answer->code = 200;
  HttpFields fields = AcceptedFields(upstream.accepted_info(), "application/json");
  std::string text = whole.Body(upstream.usage());
  (void)co_await exchange.Respond(200, std::move(fields), std::move(text));
}

awaitable<void> GatewayService::HandleResume(HttpExchange& exchange, const std::string& id,
                                             Answer* answer) {
  EdgeOpenInfo info;
  StreamPosition position;
  RestError error = CheckHeaders(exchange.head(), &info.timeout_ms);
  if (error.ok()) error = PositionOf(exchange.head(), &position);
  if (error.ok()) error = FillInfo(exchange, kStreamRoute, &info);
  if (!error.ok()) co_return co_await RespondError(exchange, std::move(error), answer);
  info.trace_parent = answer->trace_parent;
  info.window_bytes = options_.stream_bytes_max;
  auto upstream = std::make_shared<Upstream>(io_, edge_);
  upstream->SetOnLost([&upstream, &exchange] {
    upstream->Cancel();
    exchange.Abort();
  });
  upstream->Attach(id, position, info);
  exchange.WatchClient([upstream] { upstream->OnClientGone(); }, StreamWriter::KeepAlive());
  while (!upstream->accepted() && !upstream->failed() && !upstream->client_gone()) {
    (void)co_await upstream->Wait(std::chrono::hours(1));
  }
  if (upstream->accepted()) {
    // The router checked what the client has against the request.
    const ResumeState state =
        ReadResumeState(upstream->accepted_info().resume_state).value_or(ResumeState{});
    position.resize(state.choices);
    ApiRequest request{.chat = state.chat,
                       .model = state.model,
                       .stream = true,
                       .include_usage = state.include_usage};
    if (state.logprobs) request.sampling.logprobs = 0;
    StreamStart start{.created = state.created,
                      .position = std::move(position),
                      .keep_alive_interval = options_.keep_alive_interval};
    co_await AnswerFromUpstream(exchange, *upstream, request, std::move(start), answer);
  }
  upstream->SetOnLost(nullptr);
  upstream->Cancel();
  if (!upstream->failed() || exchange.answered()) co_return;
  co_await RespondError(exchange, upstream->error(), answer);
}

awaitable<void> GatewayService::HandleGeneration(HttpExchange& exchange, const Route& route,
                                                 Answer* answer) {
  ApiRequest request;
  EdgeOpenInfo info;
  RestError error = co_await ReadRequest(exchange, route, &request, &info);
  if (error.http == -1) co_return;
  if (error.ok()) {
    info.trace_parent = answer->trace_parent;
    auto upstream = std::make_shared<Upstream>(io_, edge_);
    upstream->SetOnLost([&upstream, &exchange] {
      upstream->Cancel();
      exchange.Abort();
    });
    StreamStart start{.created = std::time(nullptr),
                      .position = {},
                      .keep_alive_interval = options_.keep_alive_interval};
    if (request.stream && (request.chat || request.prompts.size() == 1)) {
      start.position.resize(request.sampling.n.value_or(1));
      info.resume_state = WriteResumeState({.chat = request.chat,
                                            .include_usage = request.include_usage,
                                            .logprobs = request.sampling.logprobs.has_value(),
                                            .choices = request.sampling.n.value_or(1),
                                            .created = start.created,
                                            .model = request.model});
    }
    upstream->Open(request, std::move(info), request.stream ? options_.stream_bytes_max : 0);
    exchange.WatchClient([upstream] { upstream->OnClientGone(); }, StreamWriter::KeepAlive());
    co_await AnswerFromUpstream(exchange, *upstream, request, std::move(start), answer);
    upstream->SetOnLost(nullptr);
    upstream->Cancel();
    if (!upstream->failed() || exchange.answered()) co_return;
    error = RouterError(*upstream, request);
    if (error.http == 400 && route.deepseek && !error.param.empty()) error.http = 422;
  }
  co_await RespondError(exchange, std::move(error), answer);
}

GatewayService::Route GatewayService::RouteOf(const std::string& path) {
  for (const RouteRow& row : kRoutes) {
    if (path == row.path) return {row.kind, row.deepseek, row.path, row.method, ""};
  }
  if (path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size()) {
    return {RouteKind::kModel, false, kModelRoute, "GET", path.substr(kModelPrefix.size())};
  }
  if (path.starts_with(kStreamPrefix) && path.size() > kStreamPrefix.size()) {
    return {RouteKind::kStream, false, kStreamRoute, "GET", path.substr(kStreamPrefix.size())};
  }
  return {RouteKind::kModel, false, kOtherRoute, nullptr, ""};
}

std::string GatewayService::MethodsOf(const Route& route) {
  const bool head = std::string_view(route.method) == "GET" && route.kind != RouteKind::kStream;
  return head ? "GET, HEAD" : route.method;
}

awaitable<void> GatewayService::Handle(HttpExchange& exchange) {
  const MonoTime start = Clock::Real().Now();
  const GatewayMetrics::RunningRequest running(metrics_);
  const HttpHead& head = exchange.head();
  const Route route = RouteOf(head.path);
  Answer answer;
  BeginTrace(head, &answer);
  exchange.SetCommonFields(CorsFields(options_.cors_origins, head));
  std::optional<HttpFields> preflight;
  if (route.method != nullptr) {
    preflight = PreflightFields(options_.cors_origins, head, MethodsOf(route));
  }
  if (preflight) {
    answer.code = 204;
    (void)co_await exchange.Respond(204, *std::move(preflight), "");
  } else {
    co_await HandleRoute(exchange, route, &answer);
  }
  const double seconds = Seconds(Clock::Real().Now() - start);
  metrics_->RequestFinished(route.name, answer.code, seconds);
  if (answer.request_id.empty()) answer.request_id = exchange.request_id();
  TellEnd(head, route, answer, seconds);
}

awaitable<void> GatewayService::HandleRoute(HttpExchange& exchange, const Route& route,
                                            Answer* answer) {
  const HttpHead& head = exchange.head();
  if (route.method == nullptr) {
    RestError error{
        .http = 404,
        .type = "invalid_request_error",
        .code = "not_found",
        .message =
            "there is nothing at this path; see /v1/chat/completions, /v1/completions, /v1/models"};
    co_return co_await RespondError(exchange, std::move(error), answer);
  }
  const bool get = IsGet(route.kind);
  if (head.method != route.method && !(head.method == "HEAD" && get)) {
    RestError error{.http = 405,
                    .type = "invalid_request_error",
                    .code = "method_not_allowed",
                    .message = std::string("use ") + (get ? "GET or HEAD" : route.method) + " here",
                    .allow = MethodsOf(route)};
    co_return co_await RespondError(exchange, std::move(error), answer);
  }
  EdgeAnswer told;
  RestError error = co_await Authenticate(exchange, route, &told);
  if (!error.ok()) co_return co_await RespondError(exchange, std::move(error), answer);
  if (route.kind == RouteKind::kStatus) {
    answer->code = 200;
    HttpFields fields = {{"content-type", "application/json"}};
    (void)co_await exchange.Respond(200, std::move(fields), std::move(told.status_json));
  } else if (route.kind == RouteKind::kModels || route.kind == RouteKind::kModel) {
    co_await HandleModels(exchange, route.id, told.models, answer);
  } else if (route.kind == RouteKind::kExplain) {
    co_await HandleExplain(exchange, route, answer);
  } else if (route.kind == RouteKind::kStream) {
    co_await HandleResume(exchange, route.id, answer);
  } else {
    co_await HandleGeneration(exchange, route, answer);
  }
}

}  // namespace choir
