// Answers that come from the router, as they go to the client. io thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>

#include "gateway/api/stream_position.h"
#include "gateway/gateway_metrics.h"
#include "gateway/http/http_server.h"
#include "gateway/upstream.h"

namespace choir {

HttpFields ErrorFields(const RestError& error);
// The header fields of an accepted request's answer.
HttpFields AcceptedFields(const EdgeAcceptedInfo& info, const char* content_type);
// The error that ended it, in the words of the request's surface.
RestError RouterError(const Upstream& upstream, const ApiRequest& request);

struct StreamStart {
  int64_t created = 0;  // unix seconds
  // What the client has, as StreamWriter takes it. Empty: the stream cannot be taken up elsewhere.
  StreamPosition position;
  Duration keep_alive_interval = std::chrono::seconds(10);
};

// Streams an accepted request to the client until its end; returns the status for the metrics.
boost::asio::awaitable<int> StreamAnswer(HttpExchange& exchange, Upstream& upstream,
                                         const ApiRequest& request, StreamStart start,
                                         GatewayMetrics* metrics);

}  // namespace choir
