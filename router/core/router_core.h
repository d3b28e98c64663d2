// The router's heart: all requests and all workers, and what happens to them. A state machine that
// one owner thread feeds with events; it does no I/O itself. Order of a request: identity,
// validity, model, drain and admission, text (on another thread), audit intent, relay, audit
// outcome, end.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "router/admission/admission.h"
#include "router/audit/audit.h"
#include "router/core/api.h"
#include "router/core/ledger.h"
#include "router/core/model_text.h"
#include "router/core/request.h"
#include "router/identity/identity.h"
#include "router/membership/membership.h"
#include "router/router_metrics.h"

namespace choir {

struct RouterSettings {
  std::string router_id;
  std::string model_name;
  int64_t model_created = 0;  // seconds since 1970
  Duration request_timeout = std::chrono::seconds(600);
  Duration request_timeout_max = std::chrono::hours(24);
  // A worker with running sequences that sends nothing for so long is cut off.
  Duration worker_stall_timeout = std::chrono::seconds(60);
};

// The streams to the workers. What is given to a worker without a stream is lost with it:
// OnWorkerLost follows or was called.
class WorkerLinks {
 public:
  virtual ~WorkerLinks() = default;
  virtual void Submit(WorkerIndex worker, SequenceSubmit submit) = 0;
  virtual void Cancel(WorkerIndex worker, SequenceId id) = 0;
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
  Admission* admission = nullptr;
  Audit* audit = nullptr;
  RouterMetrics* metrics = nullptr;
  WorkerLinks* links = nullptr;
  // Runs `work` on another thread and `then` on the owner thread. False: too much is waiting.
  std::function<bool(std::function<void()> work, std::function<void()> then)> run_text;
  // Uniform 64 bits, for seeds and ids.
  std::function<uint64_t()> random;
};

class RouterCore : private Placer {
 public:
  RouterCore(RouterSettings settings, RouterParts parts);
  ~RouterCore() override;

  // Clients. The number names the request until its stream heard Done or Fail (perhaps already
  // now).
  uint64_t Open(RequestInput input, std::shared_ptr<ClientStream> client);
  void Cancel(uint64_t request, const std::string& why);
  // Counts who is refused.
  std::optional<Principal> Authenticate(std::string_view bearer) const;
  // Any thread. A request that was refused before Open.
  void CountRejected(const ApiError& error) const { parts_.metrics->OnRejected(error.code); }

  // Workers.
  WorkerIndex AddWorker(const std::string& address);
  void RemoveWorker(WorkerIndex worker);
  void OnWorkerConnecting(WorkerIndex worker, uint64_t connection);
  Status OnWorkerHello(WorkerIndex worker, const WorkerIdentity& identity);
  void OnWorkerState(WorkerIndex worker, const WorkerStateReport& state);
  void OnWorkerStep(WorkerIndex worker, const StepReport& step);
  void OnWorkerLost(WorkerIndex worker, const std::string& reason);

  // Time.
  void OnTimer();
  MonoTime NextTimer() const;

  // End of service: new requests are refused, running ones finish.
  void BeginDrain();
  bool draining() const { return draining_; }
  bool idle() const { return requests_.empty(); }
  // Ends every request with 503 draining.
  void AbortAll();

  // For people and probes.
  Status Ready() const;
  std::string StatusJson() const;
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
    bool cancelling = false;         // the worker has yet to acknowledge
    MonoTime since;
    MonoTime last_token;
  };

  std::optional<Placement> Place(const PlaceQuery& query) override;

  std::optional<ApiError> Check(Request& request);
  void StartText(Request& request);
  void OnText(uint64_t id, std::variant<PreparedRequest, ApiError> prepared);
  void OnIntent(uint64_t id, StatusOr<std::string> receipt);
  void StartRelay(Request& request);
  void Act(Request& request, Relay::Actions actions);
  void ActSubmit(Request& request, SubmitAction& submit);
  void ActCancel(const CancelSequenceAction& cancel);
  void Observe(Request& request, const SequenceUpdate& update, LiveSequence& sequence);
  void AfterRelay(Request& request);
  void Close(Request& request, std::optional<ApiError> error, const Usage& usage);
  void OnClosed(uint64_t id, const std::string& receipt);
  void SetTimer(Request& request, MonoTime when);
  void TimeOut(Request& request);
  void LoseSequences(WorkerIndex worker, LossCause cause);
  void RetryWaiting();
  void CutStalledWorkers(MonoTime now);
  AuditRequest AuditOf(const Request& request) const;

  RouterSettings settings_;
  RouterParts parts_;
  Membership membership_;
  uint64_t next_request_ = 1;
  uint64_t next_sequence_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests_;
  std::unordered_map<std::string, uint64_t> request_ids_;  // names in use
  std::map<uint64_t, LiveSequence> sequences_;             // ordered: losses are handled in order
  std::set<std::pair<MonoTime, uint64_t>> timers_;
  std::set<uint64_t> waiting_;  // requests with a choice that has no rank
  std::map<WorkerIndex, MonoTime> last_heard_;
  MonoTime next_stall_check_;
  RequestLedger ledger_;
  SequenceLedger sequence_ledger_;
  bool draining_ = false;
};

}  // namespace choir
