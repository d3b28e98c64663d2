#include "gateway/api/api_error.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace choir {

std::string ErrorBody(const RestError& error) {
  nlohmann::ordered_json body;
  body["message"] = error.message;
  body["type"] = error.type;
  if (error.param.empty()) {
    body["param"] = nullptr;
  } else {
    body["param"] = error.param;
  }
  body["code"] = error.code;
  return nlohmann::ordered_json{{"error", std::move(body)}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

RestError InvalidValue(std::string param, std::string message) {
  return {.http = 400,
          .type = "invalid_request_error",
          .code = "invalid_value",
          .message = std::move(message),
          .param = std::move(param)};
}

}  // namespace choir
