// What the gateway does with a request: route, identity, body, translation, one stream upstream,
// answer. All of it on the io thread, one coroutine a request. Order of checks: contract §10.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "common/base/ip_network.h"
#include "common/trace/tracer.h"
#include "gateway/gateway_metrics.h"
#include "gateway/http/http_server.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

class Upstream;
struct StreamStart;

struct GatewayOptions {
  Duration keep_alive_interval = std::chrono::seconds(10);  // between comments on a silent stream
  Duration request_timeout = std::chrono::seconds(600);
  // Of one stream in the gateway: more is asked of the router when the client took some.
  uint64_t stream_bytes_max = uint64_t{256} << 10;
  std::vector<std::string> cors_origins;   // whose pages may read answers (cors.h)
  std::vector<IpNetwork> trusted_proxies;  // whose X-Forwarded-For is believed
};

class GatewayService {
 public:
  GatewayService(boost::asio::io_context& io, EdgeClient* edge, GatewayMetrics* metrics,
                 const Tracer* tracer, GatewayOptions options);

  boost::asio::awaitable<void> Handle(HttpExchange& exchange);
  // A request whose header was refused, which Handle never sees.
  void CountRefused(int status, const std::string& request_id);
  void SetDraining() { draining_ = true; }

 private:
  struct Route;
  struct Answer;  // what was answered, for metrics, log and trace
  static Route RouteOf(const std::string& path);
  static std::string MethodsOf(const Route& route);
  void BeginTrace(const HttpHead& head, Answer* answer) const;
  void TellEnd(const HttpHead& head, const Route& route, const Answer& answer,
               double seconds) const;
  boost::asio::awaitable<void> HandleRoute(HttpExchange& exchange, const Route& route,
                                           Answer* answer);
  boost::asio::awaitable<void> HandleGeneration(HttpExchange& exchange, const Route& route,
                                                Answer* answer);
  boost::asio::awaitable<void> HandleExplain(HttpExchange& exchange, const Route& route,
                                             Answer* answer);
  // Body and headers to a request and what goes with it; an error with http == -1: the client is
  // gone.
  boost::asio::awaitable<RestError> ReadRequest(HttpExchange& exchange, const Route& route,
                                                ApiRequest* request, EdgeOpenInfo* info);
  // Waits for the router's events and answers with them, streamed or whole.
  boost::asio::awaitable<void> AnswerFromUpstream(HttpExchange& exchange, Upstream& upstream,
                                                  const ApiRequest& request, StreamStart start,
                                                  Answer* answer);
  // A stream that lost its gateway goes on here.
  boost::asio::awaitable<void> HandleResume(HttpExchange& exchange, const std::string& id,
                                            Answer* answer);
  RestError FillInfo(const HttpExchange& exchange, std::string route, EdgeOpenInfo* info) const;
  // `allowed` is what the key may use; empty: all.
  boost::asio::awaitable<void> HandleModels(HttpExchange& exchange, const std::string& id,
                                            const std::vector<std::string>& allowed,
                                            Answer* answer);
  boost::asio::awaitable<RestError> Authenticate(HttpExchange& exchange, const Route& route,
                                                 EdgeAnswer* answer);
  boost::asio::awaitable<void> RespondError(HttpExchange& exchange, RestError error,
                                            Answer* answer);

  boost::asio::io_context& io_;
  EdgeClient* const edge_;
  GatewayMetrics* const metrics_;
  const Tracer* const tracer_;
  const GatewayOptions options_;
  bool draining_ = false;
};

}  // namespace choir
