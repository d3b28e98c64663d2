// One row of the error table, as the REST surface shows it (contract:
// {"error":{message,type,param,code}}).
#pragma once

#include <string>

namespace choir {

struct ApiError {
  int http = 0;  // 0: no error
  std::string type;
  std::string code;
  std::string message;
  std::string param;               // "" is null in JSON
  double retry_after_seconds = 0;  // 0: waiting does not help
  std::string audit_receipt;

  bool ok() const { return http == 0; }
};

std::string ErrorBody(const ApiError& error);
ApiError InvalidValue(std::string param,
                      std::string message);  // 400 invalid_request_error invalid_value

}  // namespace choir
