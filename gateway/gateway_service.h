// What the gateway does with a request: route, identity, body, translation, one stream upstream,
// answer. All of it on the io thread, one coroutine a request. Order of checks: contract §10.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "gateway/gateway_metrics.h"
#include "gateway/http/http_server.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

class Upstream;

struct GatewayOptions {
  Duration keep_alive_interval = std::chrono::seconds(10);  // between comments on a silent stream
  Duration request_timeout = std::chrono::seconds(600);
  size_t stream_bytes_max = size_t{4} << 20;  // unsent bytes of one slow reader
};

class GatewayService {
 public:
  GatewayService(boost::asio::io_context& io, EdgeClient* edge, GatewayMetrics* metrics,
                 GatewayOptions options);

  boost::asio::awaitable<void> Handle(HttpExchange& exchange);
  void SetDraining() { draining_ = true; }

 private:
  struct Route;
  struct Answer;  // what was answered, for metrics
  boost::asio::awaitable<void> HandleGeneration(HttpExchange& exchange, const Route& route,
                                                Answer* answer);
  // Body and headers to a request and what goes with it; an error with http == -1: the client is
  // gone.
  boost::asio::awaitable<ApiError> ReadRequest(HttpExchange& exchange, const Route& route,
                                               ApiRequest* request, EdgeOpenInfo* info);
  // Waits for the router's events and answers with them, streamed or whole.
  boost::asio::awaitable<void> AnswerFromUpstream(HttpExchange& exchange, Upstream& upstream,
                                                  const ApiRequest& request, Answer* answer);
  boost::asio::awaitable<void> HandleModels(HttpExchange& exchange, const std::string& id,
                                            Answer* answer);
  boost::asio::awaitable<ApiError> Authenticate(HttpExchange& exchange);
  boost::asio::awaitable<void> RespondError(HttpExchange& exchange, ApiError error, Answer* answer);

  boost::asio::io_context& io_;
  EdgeClient* const edge_;
  GatewayMetrics* const metrics_;
  const GatewayOptions options_;
  bool draining_ = false;
};

}  // namespace choir
