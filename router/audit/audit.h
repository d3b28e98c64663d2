// What is written down of each request: the seam of the audit log. Exactly one Intent (before
// anything is dispatched) or Refused per request, and exactly one Outcome per Intent. The router
// goes on with a request only when `done` was called. Called by the owner thread; `done` is called
// on it, at once or later.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "router/base/types.h"
#include "router/content/content_filter.h"

namespace choir {

struct AuditRequest {
  std::string request_id;
  std::string client_request_id;  // as its client names it, where that is another
  std::string trace_parent;       // W3C; empty: none
  std::string tenant;             // empty: nobody was recognised
  std::string principal;
  std::string auth;    // "api_key", "mtls", "jwt"; empty: nobody was recognised
  std::string key_fp;  // names the key, is no secret
  std::string source;
  std::string route;
  std::string model;
  std::string numerics_id;      // empty: no rank is ready
  std::string admission_class;  // empty: it did not come to that
};

struct AuditIntent {
  AuditRequest request;
  SequenceSampling sampling;
  uint32_t num_choices = 1;
  std::vector<std::string> stop;
  std::vector<int32_t> prompt;
  std::string limit_rule;              // what admitted it
  std::vector<RuleHits> content_hits;  // on its prompt
  double queue_ms = 0;
  std::string continues;  // receipt of the intent on another router that this one goes on with
};

// One stretch of a choice on one worker.
struct AuditService {
  std::string worker;
  uint64_t epoch = 0;
  uint32_t choice = 0;
  uint64_t from = 0;  // index of the first token generated there
};

struct AuditOutcome {
  AuditRequest request;
  Usage usage;
  std::string finish;     // of choice 0, as the API says it; empty: it did not come to that
  int status = 200;       // HTTP number
  std::string code;       // of the error; empty: none
  bool recalled = false;  // the answer was given before; nothing was computed
  std::vector<AuditService> workers;
  std::vector<std::vector<int32_t>> outputs;  // committed token ids by choice
  std::optional<double> ttft_ms;              // no token: none
  double duration_ms = 0;
  std::vector<RuleHits> content_hits;  // on its answer
};

struct AuditRefusal {
  AuditRequest request;
  int status = 503;
  std::string code;
  std::string limit_rule = {};  // the limit that refused it; empty: another reason
  double duration_ms = 0;
  std::vector<RuleHits> content_hits;  // on its prompt
};

class Audit {
 public:
  using Receipt = std::string;  // "log:seq"; empty: nothing is kept
  using Done = std::function<void(StatusOr<Receipt>)>;

  virtual ~Audit() = default;
  virtual void Intent(AuditIntent intent, Done done) = 0;
  virtual void Outcome(AuditOutcome outcome, Done done) = 0;
  virtual void Refused(AuditRefusal refusal, Done done) = 0;
  // Something that was done to the router: "start", "drain", "keys".
  virtual void Admin(std::string event, std::string detail) = 0;
  // Whether requests can be put on record now; if not, they are refused.
  virtual Status Writable() const { return absl::OkStatus(); }
};

// Keeps nothing and gives empty receipts.
std::unique_ptr<Audit> MakeNoAudit();

}  // namespace choir
