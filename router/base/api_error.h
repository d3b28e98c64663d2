// One row of the error table (contract: REST errors), as every surface of the router reports it.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace choir {

struct ApiError {
  int http = 500;
  std::string type;
  std::string code;
  std::string message;
  std::string param;
  double retry_after_seconds = 0;  // 0: waiting does not help
};

// 400. `param` is the field's name; the message states the limit.
ApiError InvalidParam(std::string param, std::string message);
// 401. The same words whether the key is missing, unknown or revoked: nothing is told to a guesser.
ApiError InvalidKey();
// 404.
ApiError ModelNotFound(std::string_view asked, std::string_view served);
// 503 with `code` one of queue_full, deadline, draining, not_ready, audit.
ApiError Overloaded(std::string code, std::string message, double retry_after_seconds);
// 504.
ApiError DeadlinePassed(double timeout_seconds);
// 499.
ApiError ClientGone(std::string message);
// 500, without inner text; the cause belongs into the log under the same id.
ApiError InternalError(std::string_view request_id);

}  // namespace choir
