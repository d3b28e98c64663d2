// One row of the error table (contract: REST errors), as every surface of the router reports it.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace choir {

// What is left of one limit, for the client's x-ratelimit headers.
struct LimitReading {
  std::string name;  // "requests" or "tokens"
  uint64_t limit = 0;
  uint64_t remaining = 0;
  double reset_seconds = 0;  // until all of it is there again
};

struct ApiError {
  int http = 500;
  std::string type;
  std::string code;
  std::string message;
  std::string param;
  double retry_after_seconds = 0;  // 0: waiting does not help
  std::string limit_rule = {};     // the limit that refused: "tenant:acme.concurrency"; else empty
  std::vector<LimitReading> limits = {};  // then how its limits stand
};

// 400. `param` is the field's name; the message states the limit.
ApiError InvalidParam(std::string param, std::string message);
// 401. The same words whether the key is missing, unknown or revoked: nothing is told to a guesser.
ApiError InvalidKey();
// 404.
ApiError ModelNotFound(std::string_view asked, std::string_view served);
// 404, whatever the reason.
ApiError StreamNotFound(std::string_view request_id);
// 503 with `code` one of queue_full, deadline, draining, not_ready, audit.
ApiError Overloaded(std::string code, std::string message, double retry_after_seconds);
// 429 with `code` one of requests, tokens, concurrency. 0 seconds: waiting does not help.
ApiError RateLimited(std::string code, std::string message, double retry_after_seconds);
// 402.
ApiError InsufficientBalance(std::string message);
// 504.
ApiError DeadlinePassed(double timeout_seconds);
// 499.
ApiError ClientGone(std::string message);
// 500, without inner text; the cause belongs into the log under the same id.
ApiError InternalError(std::string_view request_id);

}  // namespace choir
