// One row of the error table, as the REST surface shows it (contract:
// {"error":{message,type,param,code}}).
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace choir {

struct RestError {
  int http = 0;  // 0: no error
  std::string type;
  std::string code;
  std::string message;
  std::string param;               // "" is null in JSON
  double retry_after_seconds = 0;  // 0: waiting does not help
  std::string audit_receipt;
  std::string request_id;  // the router's name of the request; "": it made none
  std::string allow;       // 405: the methods of the path
  bool malformed = false;  // no JSON object at all: 400 on every surface
  std::vector<std::pair<std::string, std::string>> limit_headers = {};  // x-ratelimit-*

  bool ok() const { return http == 0; }
};

std::string ErrorBody(const RestError& error);
RestError InvalidValue(std::string param,
                       std::string message);  // 400 invalid_request_error invalid_value

}  // namespace choir
