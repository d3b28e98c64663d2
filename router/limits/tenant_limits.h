// Limits as configured: which scopes a request is counted in, and what its client is told. Counting
// itself is the backend's.
#pragma once

#include <memory>

#include "common/base/clock.h"
#include "router/limits/limit_backend.h"
#include "router/limits/limit_config.h"
#include "router/limits/limits.h"

namespace choir {

// `config` may be changed by SetConfig; owner thread.
class TenantLimits : public Limits {
 public:
  // Requests that run keep the rules that admitted them.
  virtual void SetConfig(LimitConfig config) = 0;
};

std::unique_ptr<TenantLimits> MakeTenantLimits(LimitConfig config,
                                               std::unique_ptr<LimitBackend> backend);

}  // namespace choir
