// Where limits are counted: in this process or in Redis. The seam between the rules (who is asked
// for what, tenant_limits.h) and the count. Called by the router's owner thread only; answers come
// on it, at once or later, each exactly once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "router/limits/limit_scope.h"

namespace choir {

struct LimitBackendStatus {
  std::string store;      // "memory", "redis 127.0.0.1:6379"
  bool degraded = false;  // the shared count cannot be reached: this router's share holds
  std::string reason;     // why
  double replicas = 1;    // routers that share the count, this one included
  uint64_t scopes = 0;    // in this process' book
};

class LimitBackend {
 public:
  virtual ~LimitBackend() = default;
  using Done = std::function<void(const LimitAnswer&)>;
  // Never fails: without its store a backend answers by this router's share.
  virtual void Call(LimitCall call, Done done) = 0;
  // What this process knows of a scope now, without asking anybody.
  virtual ScopeReading Peek(const LimitScope& scope) = 0;
  virtual LimitBackendStatus status() const = 0;
};

std::unique_ptr<LimitBackend> MakeMemoryLimitBackend(const Clock* clock);

}  // namespace choir
