// What is written down of each request: the seam of the audit log. Exactly one Intent (before
// anything is dispatched) or Refused per request, and exactly one Outcome per Intent. The router
// goes on with a request only when `done` was called. Called by the owner thread; `done` is called
// on it, at once or later.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "router/base/types.h"

namespace choir {

struct AuditRequest {
  std::string request_id;
  std::string trace_parent;
  std::string tenant;
  std::string key_id;
  std::string source;
  std::string route;
  std::string model;
};

struct AuditOutcome {
  Usage usage;
  std::string finish;
  int status = 200;  // HTTP number
  double duration_seconds = 0;
  uint32_t replays = 0;
};

class Audit {
 public:
  using Receipt = std::string;  // "log:seq"
  using IntentDone = std::function<void(StatusOr<Receipt>)>;
  using Done = std::function<void(Receipt)>;

  virtual ~Audit() = default;
  virtual void Intent(const AuditRequest& request, const SequenceSampling& sampling,
                      const std::vector<int32_t>& prompt, IntentDone done) = 0;
  virtual void Outcome(const AuditRequest& request, const AuditOutcome& outcome, Done done) = 0;
  virtual void Refused(const AuditRequest& request, int status, Done done) = 0;
};

// Keeps nothing and gives empty receipts.
std::unique_ptr<Audit> MakeNoAudit();

}  // namespace choir
