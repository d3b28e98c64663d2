#include "gateway/gateway_service.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <cmath>
#include <ctime>
#include <utility>

#include "gateway/http/request_id.h"
#include "gateway/upstream.h"

namespace choir {

namespace asio = boost::asio;
using asio::awaitable;

enum class RouteKind { kChat, kCompletions, kModels, kModel };

struct GatewayService::Route {
  RouteKind kind;
  bool deepseek;     // 422 for parameters
  const char* name;  // metrics' label
};

struct GatewayService::Answer {
  int code = 499;          // until something was answered
  std::string request_id;  // the router's, once it accepted
};

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
    {"/chat/completions", "POST", RouteKind::kChat, true},
    {"/beta/completions", "POST", RouteKind::kCompletions, true},
    {"/models", "GET", RouteKind::kModels, true},
};
constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr const char* kModelRoute = "/v1/models/{id}";  // metrics' labels
constexpr const char* kOtherRoute = "other";

std::string BearerOf(const HttpHead& head) {
  std::string_view value = head.Field("authorization");
  constexpr std::string_view kBearer = "bearer ";
  if (value.size() < kBearer.size()) return "";
  for (size_t i = 0; i < kBearer.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(value[i])) != kBearer[i]) return "";
  }
  value.remove_prefix(kBearer.size());
  return std::string(value);
}

ApiError CheckHeaders(const HttpHead& head, uint32_t* timeout_ms) {
  const std::string_view id = head.Field("x-request-id");
  if (!id.empty() && !IsRequestId(id)) {
    return InvalidValue("x-request-id",
                        "x-request-id: must be at most 128 characters of [A-Za-z0-9._-]");
  }
  const std::string_view timeout = head.Field("x-request-timeout");
  if (timeout.empty()) return {};
  double seconds = 0;
  const auto [rest, error] =
      std::from_chars(timeout.data(), timeout.data() + timeout.size(), seconds);
  if (error != std::errc() || rest != timeout.data() + timeout.size() ||
      !(seconds > 0 && seconds <= 86400)) {
    return InvalidValue("x-request-timeout",
                        "x-request-timeout: must be seconds above 0 and at most 86400");
  }
  *timeout_ms = static_cast<uint32_t>(std::ceil(seconds * 1000));
  return {};
}

HttpFields ErrorFields(const ApiError& error) {
  HttpFields fields = {{"content-type", "application/json"}};
  if (error.retry_after_seconds > 0) {
    fields.emplace_back("retry-after",
                        std::to_string(static_cast<int64_t>(std::ceil(error.retry_after_seconds))));
  }
  if (error.http == 401) fields.emplace_back("www-authenticate", "Bearer");
  if (!error.audit_receipt.empty()) fields.emplace_back("x-choir-audit", error.audit_receipt);
  return fields;
}

HttpFields AcceptedFields(const EdgeAcceptedInfo& info, const char* content_type) {
  HttpFields fields = {{"content-type", content_type}, {"x-request-id", info.request_id}};
  if (!info.audit_receipt.empty()) fields.emplace_back("x-choir-audit", info.audit_receipt);
  fields.insert(fields.end(), info.headers.begin(), info.headers.end());
  return fields;
}

ApiError RouterError(const Upstream& upstream, const ApiRequest& request) {
  ApiError error = upstream.error();
  if (!request.chat) NameCompletionFields(&error);
  return error;
}

// Streams an accepted request to the client until its end; returns the status for the metrics.
awaitable<int> StreamAnswer(HttpExchange& exchange, Upstream& upstream, const ApiRequest& request,
                            const GatewayOptions& options, GatewayMetrics* metrics) {
  StreamWriter writer(request,
                      {upstream.accepted_info().request_id, request.model, std::time(nullptr)});
  HttpFields fields = AcceptedFields(upstream.accepted_info(), "text/event-stream; charset=utf-8");
  fields.emplace_back("cache-control", "no-cache");
  fields.emplace_back("x-accel-buffering", "no");  // nginx in front must not collect the stream
  if (!co_await exchange.StartStream(200, std::move(fields))) co_return 499;
  while (true) {
    const bool finished = upstream.done(), failed = upstream.failed();
    std::string bytes;
    for (const ApiDelta& delta : upstream.TakeDeltas()) bytes += writer.Delta(delta);
    if (failed) bytes += StreamWriter::Error(RouterError(upstream, request));
    if (finished) bytes += writer.Done(upstream.usage());
    const uint64_t before = writer.events();
    if (upstream.client_gone()) co_return 499;
    if (!bytes.empty()) {
      metrics->SseEvents(static_cast<double>(writer.events() - before + 1));
      if (!co_await exchange.WriteStream(std::move(bytes))) co_return 499;
    }
    if (failed || finished) {
      (void)co_await exchange.EndStream();
      co_return failed ? upstream.error().http : 200;
    }
    if (co_await upstream.Wait(options.keep_alive_interval)) continue;
    if (!co_await exchange.WriteStream(StreamWriter::KeepAlive())) co_return 499;
  }
}

}  // namespace

GatewayService::GatewayService(asio::io_context& io, EdgeClient* edge, GatewayMetrics* metrics,
                               GatewayOptions options)
    : io_(io), edge_(edge), metrics_(metrics), options_(options) {
  for (const RouteRow& row : kRoutes) metrics_->AddRoute(row.path);
  for (const char* route : {kModelRoute, kOtherRoute}) metrics_->AddRoute(route);
}

awaitable<void> GatewayService::RespondError(HttpExchange& exchange, ApiError error,
                                             Answer* answer) {
  answer->code = error.http;
  HttpFields fields = ErrorFields(error);
  if (!answer->request_id.empty()) fields.emplace_back("x-request-id", answer->request_id);
  std::string body = ErrorBody(error);
  (void)co_await exchange.Respond(error.http, std::move(fields), std::move(body));
}

awaitable<ApiError> GatewayService::Authenticate(HttpExchange& exchange) {
  std::string bearer = BearerOf(exchange.head());
  if (bearer.empty()) {
    co_return ApiError{.http = 401,
                       .type = "authentication_error",
                       .code = "invalid_api_key",
                       .message = "no API key: send it as 'Authorization: Bearer KEY'"};
  }
  struct Pending {
    explicit Pending(asio::io_context& io) : wake(io) {}
    asio::steady_timer wake;
    bool answered = false;
    ApiError error;
  };
  auto pending = std::make_shared<Pending>(io_);
  pending->wake.expires_after(std::chrono::seconds(10));
  edge_->Authenticate(std::move(bearer), exchange.source(), [pending](ApiError error) {
    pending->answered = true;
    pending->error = std::move(error);
    pending->wake.cancel();
  });
  if (!pending->answered)
    (void)co_await pending->wake.async_wait(asio::as_tuple(asio::use_awaitable));
  if (!pending->answered) {
    co_return ApiError{.http = 503,
                       .type = "overloaded_error",
                       .code = "not_ready",
                       .message = "the router did not answer in time",
                       .retry_after_seconds = 1};
  }
  co_return pending->error;
}

awaitable<void> GatewayService::HandleModels(HttpExchange& exchange, const std::string& id,
                                             Answer* answer) {
  uint32_t timeout_ms = 0;  // nothing here takes time, but a bad header is an error everywhere
  ApiError bad_header = CheckHeaders(exchange.head(), &timeout_ms);
  if (!bad_header.ok()) co_return co_await RespondError(exchange, std::move(bad_header), answer);
  const auto& models = edge_->models();
  std::string body;
  if (id.empty()) {
    body = ModelListBody(models);
  } else {
    for (const ApiModel& m : models) {
      if (m.id == id) body = ModelBody(m);
    }
    if (body.empty()) {
      ApiError error{.http = 404,
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

awaitable<ApiError> GatewayService::ReadRequest(HttpExchange& exchange, const Route& route,
                                                ApiRequest* request, EdgeOpenInfo* info) {
  const HttpHead& head = exchange.head();
  std::string body;
  const HttpError read = co_await exchange.ReadBody(&body);
  if (read.status != 0) {
    co_return ApiError{.http = read.status,
                       .type = "invalid_request_error",
                       .code = read.status == 413 ? "request_too_large" : "invalid_value",
                       .message = read.message};
  }
  ApiError error = CheckHeaders(head, &info->timeout_ms);
  if (!error.ok()) co_return error;
  error = route.kind == RouteKind::kChat ? ParseChatRequest(body, request)
                                         : ParseCompletionRequest(body, request);
  if (!error.ok()) co_return error;
  if (draining_) {
    co_return ApiError{.http = 503,
                       .type = "overloaded_error",
                       .code = "draining",
                       .message = "this gateway is draining; another one serves",
                       .retry_after_seconds = 1};
  }
  info->bearer = BearerOf(head);
  info->source = exchange.source();
  info->route = head.path;
  info->client_request_id = std::string(head.Field("x-request-id"));
  info->trace_parent = std::string(head.Field("traceparent"));
  if (info->timeout_ms == 0) {
    info->timeout_ms = static_cast<uint32_t>(Seconds(options_.request_timeout) * 1000);
  }
  co_return ApiError{};
}

awaitable<void> GatewayService::AnswerFromUpstream(HttpExchange& exchange, Upstream& upstream,
                                                   const ApiRequest& request, Answer* answer) {
  while (!upstream.accepted()) {
    if (upstream.failed() || upstream.client_gone()) co_return;
    (void)co_await upstream.Wait(std::chrono::hours(1));
  }
  answer->request_id = upstream.accepted_info().request_id;
  if (request.stream) {
    metrics_->StreamOpened();
    answer->code = co_await StreamAnswer(exchange, upstream, request, options_, metrics_);
    metrics_->StreamClosed();
    co_return;
  }
  ResponseCollector whole(request, {answer->request_id, request.model, std::time(nullptr)});
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

awaitable<void> GatewayService::HandleGeneration(HttpExchange& exchange, const Route& route,
                                                 Answer* answer) {
  ApiRequest request;
  EdgeOpenInfo info;
  ApiError error = co_await ReadRequest(exchange, route, &request, &info);
  if (error.http == -1) co_return;
  if (error.ok()) {
    auto upstream =
        std::make_shared<Upstream>(io_, request.stream ? options_.stream_bytes_max : SIZE_MAX);
    const uint64_t id = edge_->Open(request, info, upstream);
    upstream->SetOnLost([this, id, &exchange] {
      edge_->Cancel(id);
      exchange.Abort();
    });
    exchange.WatchClient([upstream] { upstream->OnClientGone(); });
    co_await AnswerFromUpstream(exchange, *upstream, request, answer);
    upstream->SetOnLost(nullptr);
    edge_->Cancel(id);  // nothing to do when it has ended
    if (!upstream->failed() || exchange.answered()) co_return;
    error = RouterError(*upstream, request);
  }
  if (error.http == 400 && route.deepseek && !error.param.empty()) error.http = 422;
  co_await RespondError(exchange, std::move(error), answer);
}

awaitable<void> GatewayService::Handle(HttpExchange& exchange) {
  const MonoTime start = Clock::Real().Now();
  const GatewayMetrics::RunningRequest running(metrics_);
  const HttpHead& head = exchange.head();
  Route route{RouteKind::kModel, false, kOtherRoute};
  std::string model_id;
  const char* method = nullptr;
  for (const RouteRow& row : kRoutes) {
    if (head.path == row.path) route = {row.kind, row.deepseek, row.path}, method = row.method;
  }
  if (method == nullptr && head.path.starts_with(kModelPrefix) &&
      head.path.size() > kModelPrefix.size()) {
    route = {RouteKind::kModel, false, kModelRoute};
    method = "GET";
    model_id = head.path.substr(kModelPrefix.size());
  }
  const bool get = method != nullptr && std::string_view(method) == "GET";
  Answer answer;
  if (method == nullptr) {
    ApiError error{
        .http = 404,
        .type = "invalid_request_error",
        .code = "not_found",
        .message =
            "there is nothing at this path; see /v1/chat/completions, /v1/completions, /v1/models"};
    co_await RespondError(exchange, std::move(error), &answer);
  } else if (head.method != method && !(head.method == "HEAD" && get)) {
    answer.code = 405;
    ApiError error{.http = 405,
                   .type = "invalid_request_error",
                   .code = "method_not_allowed",
                   .message = std::string("use ") + (get ? "GET or HEAD" : method) + " here"};
    HttpFields fields = {{"content-type", "application/json"},
                         {"allow", get ? "GET, HEAD" : method}};
    std::string body = ErrorBody(error);
    (void)co_await exchange.Respond(405, std::move(fields), std::move(body));
  } else {
    ApiError error = co_await Authenticate(exchange);
    if (!error.ok()) {
      co_await RespondError(exchange, std::move(error), &answer);
    } else if (route.kind == RouteKind::kModels || route.kind == RouteKind::kModel) {
      co_await HandleModels(exchange, model_id, &answer);
    } else {
      co_await HandleGeneration(exchange, route, &answer);
    }
  }
  metrics_->RequestFinished(route.name, answer.code, Seconds(Clock::Real().Now() - start));
}

}  // namespace choir
