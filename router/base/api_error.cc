#include "router/base/api_error.h"

#include <utility>

namespace choir {

ApiError InvalidParam(std::string param, std::string message) {
  return {.http = 400,
          .type = "invalid_request_error",
          .code = "invalid_value",
          .message = std::move(message),
          .param = std::move(param)};
}

ApiError InvalidKey() {
  return {.http = 401,
          .type = "authentication_error",
          .code = "invalid_api_key",
          .message = "no valid API key was given: send it as 'Authorization: Bearer ck-...'"};
}

ApiError ModelNotFound(std::string_view asked, std::string_view served) {
  return {
      .http = 404,
      .type = "invalid_request_error",
      .code = "model_not_found",
      .message = fmt::format("the model '{}' does not exist here; served is '{}'", asked, served),
      .param = "model"};
}

ApiError StreamNotFound(std::string_view request_id) {
  return {.http = 404,
          .type = "invalid_request_error",
          .code = "not_found",
          .message = fmt::format("there is no stream '{}' to go on with: it has ended, or was kept "
                                 "for as long as it could be, or was lost with its router",
                                 request_id)};
}

ApiError Overloaded(std::string code, std::string message, double retry_after_seconds) {
  return {.http = 503,
          .type = "overloaded_error",
          .code = std::move(code),
          .message = std::move(message),
          .retry_after_seconds = retry_after_seconds};
}

ApiError RateLimited(std::string code, std::string message, double retry_after_seconds) {
  return {.http = 429,
          .type = "rate_limit_error",
          .code = std::move(code),
          .message = std::move(message),
          .retry_after_seconds = retry_after_seconds};
}

ApiError InsufficientBalance(std::string message) {
  return {.http = 402,
          .type = "insufficient_balance",
          .code = "insufficient_balance",
          .message = std::move(message)};
}

ApiError DeadlinePassed(double timeout_seconds) {
  return {
      .http = 504,
      .type = "timeout",
      .code = "timeout",
      .message = fmt::format("the request was not done within its {:g} seconds", timeout_seconds)};
}

ApiError ClientGone(std::string message) {
  return {.http = 499, .type = "cancelled", .code = "cancelled", .message = std::move(message)};
}

ApiError InternalError(std::string_view request_id) {
  return {
      .http = 500,
      .type = "internal_error",
      .code = "internal_error",
      .message = fmt::format("something went wrong in the server; it is logged as {}", request_id)};
}

}  // namespace choir
