// How much a tenant may use: requests a second, tokens, requests at once, a budget. The seam
// between the core and whoever counts, in this process or elsewhere; answers may come later. Called
// by the router's owner thread only, and answers on it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "router/base/api_error.h"
#include "router/base/types.h"
#include "router/limits/limit_rules.h"

namespace choir {

struct LimitQuery {
  std::string tenant;
  std::string key_id;
  std::string model;
  LimitRules key_rules = {};  // beside its tenant's
  // It was admitted by another router that was lost, and goes on here: counted, never refused.
  bool resumed = false;
};

struct TokenNeed {
  uint64_t prompt = 0;
  uint64_t output_max = 0;  // of all choices together
};

// What one admitted request holds of its tenant's limits, until it is destroyed at the latest,
// which is before its Limits.
class LimitLease {
 public:
  // As Settle with nothing used, unless it was settled.
  virtual ~LimitLease() = default;
  // At most once, before dispatch: what the request may use at most. An error refuses it. `done` is
  // not called after the lease is gone.
  using ReserveDone = std::function<void(std::optional<ApiError>)>;
  virtual void Reserve(const TokenNeed& need, ReserveDone done) = 0;
  // At most once, at the end, with what was really used, however the request ended.
  virtual void Settle(const Usage& usage) = 0;
  // Instead of Settle: it was refused for no fault of its client's and does not count as a request.
  virtual void Withdraw() = 0;
  // The rules that admitted it, for the audit.
  virtual std::string rule() const = 0;
  // For the client, as of the last answer; empty: no limits apply.
  virtual std::vector<LimitReading> readings() const = 0;
};

struct LimitStatus {
  std::string store = "none";
  bool degraded = false;
  std::string reason;   // of being degraded
  double replicas = 1;  // routers that count together
  uint64_t scopes = 0;  // with something used
  // Tokens, of all requests since the start; reserved = settled + outstanding.
  uint64_t reserved_tokens = 0;
  uint64_t settled_tokens = 0;
  uint64_t outstanding_tokens = 0;
  uint64_t leases = 0;

  int64_t Difference() const {
    return static_cast<int64_t>(reserved_tokens) -
           static_cast<int64_t>(settled_tokens + outstanding_tokens);
  }
};

// What one tenant has used of one limit, for people.
struct LimitUse {
  std::string scope;  // "tenant:acme"
  std::string rule;   // "tokens_per_minute"
  double used = 0;    // reserved included
  double limit = 0;
};

class Limits {
 public:
  virtual ~Limits() = default;
  // `done` is called once, perhaps before this returns. Whoever no longer wants the lease then
  // drops it.
  using AdmitDone = std::function<void(std::variant<std::unique_ptr<LimitLease>, ApiError>)>;
  virtual void Admit(const LimitQuery& query, AdmitDone done) = 0;
  virtual LimitStatus status() const = 0;
  // Of this tenant, or, when empty, of all that are configured; at most `max`.
  virtual std::vector<LimitUse> Uses(const std::string& tenant, size_t max) = 0;
};

// Everybody may use everything.
std::unique_ptr<Limits> MakeNoLimits();

}  // namespace choir
