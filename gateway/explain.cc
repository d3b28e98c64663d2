// POST /v1/choir/route: the body of a chat or completion, answered with where it would go.
#include <memory>
#include <utility>

#include "gateway/gateway_routes.h"
#include "gateway/gateway_service.h"
#include "gateway/router_reply.h"

namespace choir {

using boost::asio::awaitable;

awaitable<void> GatewayService::HandleExplain(HttpExchange& exchange, const Route& route,
                                              Answer* answer) {
  ApiRequest request;
  EdgeOpenInfo info;
  RestError error = co_await ReadRequest(exchange, route, &request, &info);
  if (error.http == -1) co_return;
  if (!error.ok()) co_return co_await RespondError(exchange, std::move(error), answer);
  info.trace_parent = answer->trace_parent;
  auto reply = std::make_shared<RouterReply<std::string>>(io_);
  edge_->Explain(request, info, [reply](RestError refused, std::string json) {
    reply->Set(std::move(refused), std::move(json));
  });
  if (!co_await reply->Wait(std::chrono::milliseconds(info.timeout_ms))) {
    reply->error() = {.http = 504,
                      .type = "timeout",
                      .code = "timeout",
                      .message = "the router did not answer in time"};
  }
  if (!reply->error().ok()) {
    if (!request.chat) NameCompletionFields(&reply->error());
    co_return co_await RespondError(exchange, std::move(reply->error()), answer);
  }
  answer->code = 200;
  HttpFields fields = {{"content-type", "application/json"}};
  (void)co_await exchange.Respond(200, std::move(fields), std::move(reply->value()));
}

}  // namespace choir
