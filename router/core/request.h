// The router core's record of one request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "common/trace/tracer.h"
#include "router/admission/admission.h"
#include "router/audit/audit.h"
#include "router/cache/result_cache.h"
#include "router/core/api.h"
#include "router/core/model_text.h"
#include "router/identity/identity.h"
#include "router/limits/limits.h"
#include "router/relay/relay.h"

namespace choir {

enum class RequestStage {
  kLimits,   // its tenant's limits are asked
  kText,     // template and tokens, on another thread
  kLookup,   // whether its answer is known
  kReserve,  // the limits are asked for its tokens
  kQueued,   // waits for its turn
  kIntent,   // on its way into the audit log
  kRunning,
  kClosing,  // its end is on its way into the audit log
};

// What became of a prompt.
struct PromptRead {
  std::variant<PreparedRequest, ApiError> prepared;
  std::vector<RuleHits> hits;
};

// The span of a sequence while it is on a worker.
struct SequenceSpan {
  OpenSpan open;
  std::string worker;
  int64_t epoch = 0;
  int64_t choice = 0;
  int64_t from = 0;  // index of the first token generated there
};

struct Request {
  uint64_t id = 0;
  RequestStage stage = RequestStage::kLimits;
  std::shared_ptr<ClientStream> client;
  RequestInput input;
  std::string request_id;              // in log and audit, and at workers: nobody else's, ever
  std::string name;                    // for its client, and for who takes its stream up
  std::string client_request_id;       // as its client names it, where request_id is another
  std::optional<Principal> principal;  // none: nobody was recognised
  std::unique_ptr<LimitLease> lease;
  std::vector<LimitReading> limits;               // as its client is told at its end
  std::optional<AdmissionClass> admission_class;  // once it is known
  std::unique_ptr<Permit> permit;
  std::optional<PreparedRequest> prepared;  // until the relay takes it
  std::vector<RuleHits> input_hits;         // content rules that acted on its prompt
  bool may_recall = true;               // its answer may be one that was given before, and be kept
  bool seeded = false;                  // by the client
  std::optional<ResultKey> result_key;  // of its answer, where it is to be kept
  std::optional<KnownAnswer> known;     // until the relay has it
  bool recalled = false;
  std::unique_ptr<Relay> relay;
  std::string audit_receipt;
  std::vector<AuditService> services;  // where its choices ran, in order

  OpenSpan span;                     // without a tracer none
  std::vector<SpanAttribute> asked;  // for its span
  MonoTime arrived;
  MonoTime stage_began;
  MonoTime deadline;
  MonoTime timer;  // in the core's timers when not zero
  double timeout_seconds = 0;
  bool first_token_seen = false;
  MonoTime first_token;
  bool client_full = false;
  bool dispatched = false;
  bool counted_as_resumed = false;
  MonoTime given_up_at;   // when not zero: its gateway is gone, and nobody took it up yet
  bool given_up = false;  // nobody did
  uint64_t parked = 0;    // its place among the ended ones that are kept

  std::optional<ApiError> error;  // how it ends, once closing
  Usage usage;

  std::string tenant() const { return principal ? principal->tenant : ""; }
  std::string key_id() const { return principal ? principal->key_id : ""; }
};

// As admission knows it.
inline AdmitRequest AdmitRequestOf(const Request& request) {
  return {.number = request.id,
          .tenant = request.tenant(),
          .admission_class = *request.admission_class,
          .deadline = request.deadline,
          .max_tokens = request.input.sampling.max_tokens.value_or(UINT32_MAX),
          .resumed = request.input.resume.has_value()};
}

inline RequestWork WorkOf(const PreparedRequest& prepared) {
  return {.prompt = prepared.prompt.size(),
          .output_max = uint64_t{prepared.sampling.max_tokens} * prepared.num_choices,
          .choices = prepared.num_choices};
}

}  // namespace choir
