// The router's heart: all requests and all workers, and what happens to them. A state machine that
// one owner thread feeds with events; it does no I/O itself. Order of a request: identity,
// validity, model, limits, admission and drain, text (on another thread), tokens reserved, its turn
// among those that wait, audit intent, relay, audit outcome, end.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "common/trace/tracer.h"
#include "router/admission/admission.h"
#include "router/audit/audit.h"
#include "router/cache/result_cache.h"
#include "router/content/rule_book.h"
#include "router/core/api.h"
#include "router/core/ledger.h"
#include "router/core/model_text.h"
#include "router/core/request.h"
#include "router/core/used_names.h"
#include "router/identity/identity.h"
#include "router/limits/limits.h"
#include "router/membership/membership.h"
#include "router/policy/policy.h"
#include "router/relay/retry_budget.h"
#include "router/router_metrics.h"

namespace choir {

struct RouterSettings {
  std::string router_id;
  std::string model_name;
  int64_t model_created = 0;  // seconds since 1970
  Duration request_timeout = std::chrono::seconds(600);
  Duration request_timeout_max = std::chrono::hours(24);
  // A worker with sequences of this router that makes no progress for so long, silently or not, is
  // cut off.
  Duration worker_stall_timeout = std::chrono::seconds(60);
  PolicySettings policy;
  BreakerLimits breaker;
  RetryLimits retry;
  // Between two lists of what runs where: workers cancel what is on no list.
  Duration reconcile_interval = std::chrono::seconds(10);
  // So long a stream goes on, or its end is kept, without the gateway that it came by; 0: not.
  Duration resume_grace = std::chrono::seconds(30);
  size_t resume_streams_max = 10'000;  // ended streams that are kept
  // Names given by clients that are remembered, so that no two requests on record have one.
  size_t used_names_max = 1'000'000;
};

// The streams to the workers. What is given to a worker without a stream is lost with it:
// OnWorkerLost follows or was called.
class WorkerLinks {
 public:
  virtual ~WorkerLinks() = default;
  virtual void Submit(WorkerIndex worker, SequenceSubmit submit) = 0;
  virtual void Cancel(WorkerIndex worker, SequenceId id) = 0;
  // All that runs there, as this router knows it.
  virtual void Reconcile(WorkerIndex worker, const std::vector<SequenceId>& ids) = 0;
  // Ends the stream; OnWorkerLost follows.
  virtual void Disconnect(WorkerIndex worker, const std::string& reason) = 0;
};

struct StepReport {
  uint64_t epoch = 0;
  std::vector<SequenceUpdate> updates;
  std::optional<WorkerLoad> load;
};

// What the core works with; all outlive it.
struct RouterParts {
  const Clock* clock = nullptr;
  const ModelText* model = nullptr;
  const Identity* identity = nullptr;
  Limits* limits = nullptr;
  Admission* admission = nullptr;
  Audit* audit = nullptr;
  RouterMetrics* metrics = nullptr;
  WorkerLinks* links = nullptr;
  std::shared_ptr<const ContentRuleBook> content;  // null: no content rules
  ResultCache* results = nullptr;                  // null: every answer is computed
  const Tracer* tracer = nullptr;                  // null: traces are passed on as they came
  // Runs `work` on another thread and `then` on the owner thread. False: too much is waiting.
  std::function<bool(std::function<void()> work, std::function<void()> then)> run_text;
  // Uniform 64 bits, for seeds and ids.
  std::function<uint64_t()> random;
  std::vector<std::string> used_names;  // given by clients, on record since before this start
};

class RouterCore : private Placer {
 public:
  RouterCore(RouterSettings settings, RouterParts parts);
  ~RouterCore() override;

  // Clients. The number names the request until its stream heard Done or Fail (perhaps already
  // now).
  uint64_t Open(RequestInput input, std::shared_ptr<ClientStream> client);
  // Not when `by` is given and is no longer its client. Of a request that has ended: its client has
  // the end.
  void Cancel(uint64_t request, const std::string& why, const ClientStream* by = nullptr);
  // Its client's gateway is gone: a stream that may outlive it can be taken up, others end.
  void Detach(uint64_t request, const ClientStream* client);
  // The number of the request whose client this is from now on; 0: `client` heard why not.
  uint64_t Attach(const AttachInput& input, std::shared_ptr<ClientStream> client);
  // Who that is, or why it may not go on and the receipt of its refusal. `done` is called now or
  // later.
  struct CallerInfo {
    std::string source;
    std::string route;
    PeerCertificate certificate = {};
    bool check_rights = false;  // also what it may do: from there and, when named, with `model`
    std::string model = {};
    std::string client_request_id = {};  // as the answer to it is named; may be empty
  };
  struct Denied {
    ApiError error;
    std::string receipt;
  };
  using AuthenticateDone = std::function<void(std::variant<Principal, Denied>)>;
  void Authenticate(const std::string& bearer, const CallerInfo& caller, AuthenticateDone done);
  // How the request would be admitted and placed now, as JSON, or why it can never be. Nothing is
  // dispatched, limited, counted or put on record. `done` is called now or later.
  using ExplainDone = std::function<void(std::variant<std::string, ApiError> explained)>;
  void Explain(RequestInput input, ExplainDone done);
  // Any thread. A request that was refused before Open.
  void CountRejected(const ApiError& error) const { parts_.metrics->OnRejected(error.code); }

  // Workers.
  WorkerIndex AddWorker(const std::string& address);
  void RemoveWorker(WorkerIndex worker);
  void OnWorkerConnecting(WorkerIndex worker, uint64_t connection);
  Status OnWorkerHello(WorkerIndex worker, const WorkerIdentity& identity);
  void OnWorkerState(WorkerIndex worker, const WorkerStateReport& state);
  void OnWorkerStep(WorkerIndex worker, const StepReport& step);
  // It cancelled so many sequences that this router does not know.
  void OnWorkerGhosts(WorkerIndex worker, uint32_t sequences);
  void OnWorkerLost(WorkerIndex worker, const std::string& reason);

  // Time.
  void OnTimer();
  MonoTime NextTimer() const;

  // For requests that come from now on, and for the order of those that wait.
  void SetAdmission(AdmissionConfig config);
  // From the next decision on; what an other policy had learned is forgotten.
  void SetPolicy(const PolicySettings& settings);
  // For requests from now on.
  void SetContent(std::shared_ptr<const ContentRuleBook> content);
  // Keys of the configuration file that were changed, and that only a start takes up: to be shown.
  void SetNextStart(std::vector<std::string> keys) { next_start_ = std::move(keys); }

  // End of service: gateways and probes are told, and nothing else changes yet.
  void AnnounceDrain();
  // New requests are refused, running ones finish.
  void BeginDrain();
  bool draining() const { return announced_; }  // said to be, at least
  // Why new requests do better at another router; empty: they do not.
  std::string unfit() const { return MessageOf(parts_.audit->Writable()); }
  bool idle() const { return requests_.empty(); }
  // Ends every request with 503 draining.
  void AbortAll();

  // For people and probes.
  Status Ready() const;
  // For a tenant: of what tenants use only its own part.
  std::string StatusJson(const std::string& tenant = "") const;
  void PublishMetrics();
  // Fed by the workers' hellos: what ListModels and the edge's welcome show.
  struct ModelInfo {
    std::string id;
    int64_t created = 0;
    uint32_t context_length = 0;
    std::string numerics_id;
    bool operator==(const ModelInfo&) const = default;
  };
  ModelInfo model_info() const;
  const RouterSettings& settings() const { return settings_; }
  const Membership& membership() const { return membership_; }

 private:
  struct LiveSequence {
    uint64_t request = 0;
    WorkerIndex worker;
    uint64_t unanswered_tokens = 0;  // counted as load until the first token
    uint32_t predicted_tokens = 0;   // thought to be cached there
    bool answered = false;           // with a first token
    bool cancelling = false;         // the worker has yet to acknowledge
    MonoTime since;
    MonoTime last_token;
    std::shared_ptr<const SequenceSpan> span;  // null: it is not recorded
  };

  std::optional<Placement> Place(const PlaceQuery& query) override;
  bool MayRetry(MonoTime now) override;

  std::optional<ApiError> Check(Request& request);
  std::optional<ApiError> CheckClass(Request& request) const;
  void OnLimits(uint64_t id, std::variant<std::unique_ptr<LimitLease>, ApiError> admitted);
  std::optional<ApiError> Enter(Request& request);
  std::optional<ApiError> CheckServing(bool resumed) const;
  void StartText(Request& request);
  PrepareLimits TextLimits(const std::string& tenant) const;
  std::string ExplainPrepared(const PreparedRequest& prepared, const Request& asked);
  AdmissionOutlook Foresee(const PreparedRequest& prepared, const Request& asked);
  PromptRead ReadPrompt(RequestInput* input, const PrepareLimits& limits) const;
  void OnText(uint64_t id, PromptRead read);
  bool LookUp(Request& request);
  void OnLookup(uint64_t id, std::optional<KnownAnswer> known);
  void KeepAnswer(const Request& request);
  void Reserve(Request& request);
  void OnReserved(uint64_t id, std::optional<ApiError> refused);
  void PutIntent(Request& request);
  void TellCapacity();
  void TakeTurns();
  void OnTurn(Request& request);
  Request* InStage(uint64_t id, RequestStage stage);
  void OnIntent(uint64_t id, StatusOr<std::string> receipt);
  void StartRelay(Request& request);
  void Act(Request& request, Relay::Actions actions);
  void ActSubmit(Request& request, SubmitAction& submit);
  void ActCancel(const CancelSequenceAction& cancel);
  void Observe(Request& request, const SequenceUpdate& update, LiveSequence& sequence);
  void AfterRelay(Request& request);
  void Close(Request& request, std::optional<ApiError> error, const Usage& usage);
  void OnClosed(uint64_t id, StatusOr<std::string> recorded);
  AuditOutcome OutcomeOf(const Request& request, double duration_ms) const;
  void SetTimer(Request& request, MonoTime when);
  void TimeOut(Request& request);
  void LoseSequences(WorkerIndex worker, LossCause cause);
  void RetryWaiting();
  void CutStalledWorkers(MonoTime now);
  bool Outlives(const Request& request) const;
  Request* FindKept(uint64_t id);
  void ParkOrForget(std::unique_ptr<Request> request);
  void Unpark(uint64_t id);
  void ForgetDetached(Request& request);
  void ForgetName(const Request& request);
  void GiveUpDetached(MonoTime now);
  void TakeUp(Request& request, const std::string& source, std::shared_ptr<ClientStream> client,
              std::vector<ChoiceDelta> missed);
  void TakeName(Request& request);
  void EndPredecessor(const std::string& request_id, const std::string& tenant);
  void NoteProgress(WorkerIndex worker, const StepReport& step, MonoTime now);
  void Reconcile(MonoTime now);
  AuditRequest AuditOf(const Request& request) const;
  void BeginTrace(Request& request) const;
  void TraceAdmitted(Request& request, const SequenceSampling& sampling,
                     uint32_t num_choices) const;
  std::shared_ptr<const SequenceSpan> BeginSequence(const Request& request,
                                                    const AuditService& service,
                                                    SequenceSubmit* submit) const;
  void TraceSequence(const SequenceSpan* sequence, const char* end, const char* error) const;
  void TraceEnd(const Request& request, int status) const;
  void LogEnd(const Request& request, int status, double seconds) const;
  static void LogRefusal(const AuditRefusal& refusal);
  static void Name(const Principal& principal, AuditRequest* audit);

  RouterSettings settings_;
  RouterParts parts_;
  Membership membership_;
  std::unique_ptr<Policy> policy_;
  PrefixStats published_prefix_;  // what the metrics have of it
  uint64_t next_request_ = 1;
  uint64_t next_sequence_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests_;
  // Ended; their clients may not know yet.
  std::unordered_map<uint64_t, std::unique_ptr<Request>> parked_;
  std::map<uint64_t, uint64_t> parked_in_order_;  // the longest kept first
  uint64_t num_parked_ = 0;
  std::set<std::pair<MonoTime, uint64_t>> detached_;  // running or parked: when they are given up
  // Names in use, with whose they are: each tenant has its own.
  std::map<std::pair<std::string, std::string>, uint64_t> request_ids_;
  UsedNames used_names_;                        // on record, whoever gave them
  std::map<uint64_t, LiveSequence> sequences_;  // ordered: losses are handled in order
  std::set<std::pair<MonoTime, uint64_t>> timers_;
  std::set<uint64_t> waiting_;  // requests with a choice that has no rank
  // When a worker last sent anything, and when its work last got on: by tokens or ends of this
  // router's sequences, or by what it has computed for anybody.
  struct Progress {
    MonoTime heard;
    MonoTime made;
    uint64_t computed_tokens = 0;
  };
  std::map<WorkerIndex, Progress> progress_;
  MonoTime next_stall_check_;
  MonoTime next_reconcile_;
  RetryBudget retry_budget_;
  bool turns_due_ = false;  // something ended: others may run
  bool taking_turns_ = false;
  RequestLedger ledger_;
  SequenceLedger sequence_ledger_;
  bool announced_ = false, draining_ = false;
  std::vector<std::string> next_start_;
};

}  // namespace choir
