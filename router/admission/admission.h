// Whether a request may be served now. The seam where limits and fairness go; today one global
// bound. Called by the router's owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "router/base/api_error.h"
#include "router/base/types.h"

namespace choir {

struct AdmitRequest {
  std::string tenant;
  std::string key_id;
  std::string model;
  std::string source;
};

// A place among the admitted requests. Given back by Release or by its destruction, whichever is
// first.
class Permit {
 public:
  virtual ~Permit() = default;
  // Before dispatch: what the request may use at most. An error refuses it.
  virtual std::optional<ApiError> Reserve(uint64_t tokens) = 0;
  // At the end, with what it really used.
  virtual void Settle(const Usage& usage) = 0;
  virtual void Release() = 0;
};

class Admission {
 public:
  virtual ~Admission() = default;
  virtual std::variant<std::unique_ptr<Permit>, ApiError> Admit(const AdmitRequest& request) = 0;
};

// At most `requests_max` requests, running and queued together.
std::unique_ptr<Admission> MakeBoundedAdmission(uint64_t requests_max);

}  // namespace choir
