#include "router/router_metrics.h"

#include <sys/statvfs.h>

#include <set>

#include "router/policy/policy.h"
#include "router/relay/relay.h"

namespace choir {
namespace {

constexpr char kOverhead[] = "choir_overhead_seconds";
constexpr char kAuditDisk[] = "choir_audit_disk_bytes";
constexpr char kAuditDiskHelp[] = "Of the file system that holds the audit log.";
constexpr char kOverheadHelp[] = "Time a request spends in one stage of the router itself.";

}  // namespace

RouterMetrics::RouterMetrics(Metrics* metrics, const std::string& model)
    : admission(metrics),
      inflight(metrics->Gauge("choir_requests_inflight", "Requests admitted and not ended.")),
      result_cache_bytes(metrics->Gauge("choir_result_cache_bytes",
                                        "Of answers kept here for repeated questions.")),
      draining(metrics->Gauge("choir_draining", "1 while no new requests are taken.")),
      reload_success(metrics->Gauge("choir_config_reload_success",
                                    "1 when the last reading of keys and workers files was good.")),
      limit_degraded(metrics->Gauge("choir_limit_degraded",
                                    "1 while this router's share of the limits holds, because the "
                                    "count that routers share cannot be reached.")),
      resumed_streams(metrics->Counter("choir_resumed_streams_total",
                                       "Requests that went on after a worker or router was lost.")),
      ghost_sequences(metrics->Counter("choir_ghost_sequences_total",
                                       "Sequences that workers cancelled because no list of this "
                                       "router named them.")),
      retry_budget_exhausted(metrics->Counter("choir_retry_budget_exhausted_total",
                                              "Requests that failed before their first token "
                                              "because they could not be run again.")),
      queue_seconds(metrics->Histogram("choir_queue_seconds", "From arrival to dispatch.",
                                       Metrics::RequestSeconds())),
      ttft_seconds(metrics->Histogram("choir_ttft_seconds", "From arrival to the first token.",
                                      Metrics::RequestSeconds())),
      itl_seconds(metrics->Histogram("choir_itl_seconds", "Between tokens of one choice.",
                                     Metrics::StepSeconds())),
      decision_seconds(metrics->Histogram("choir_route_decision_seconds",
                                          "To choose a rank for a sequence.",
                                          Metrics::StepSeconds())),
      text_seconds(metrics->Histogram(kOverhead, kOverheadHelp, Metrics::StepSeconds(),
                                      {{"stage", "text"}})),
      audit_seconds(metrics->Histogram(kOverhead, kOverheadHelp, Metrics::StepSeconds(),
                                       {{"stage", "audit"}})),
      audit_fsync_seconds(metrics->Histogram("choir_audit_fsync_seconds",
                                             "To write a group of records to the disk.",
                                             Metrics::StepSeconds())),
      audit_backlog(metrics->Gauge("choir_audit_backlog", "Audit records not yet written.")),
      audit_dropped(
          metrics->Counter("choir_audit_dropped_total", "Audit records that were given up.")),
      dispatch_seconds(metrics->Histogram(kOverhead, kOverheadHelp, Metrics::StepSeconds(),
                                          {{"stage", "dispatch"}})),
      metrics_(metrics),
      model_(model),
      duration_seconds_(metrics->Histogram("choir_request_duration_seconds", "From arrival to end.",
                                           Metrics::RequestSeconds())),
      prompt_tokens_(
          metrics->Counter("choir_prompt_tokens_total", "Prompt tokens of ended requests.")),
      cached_tokens_(metrics->Counter("choir_cached_tokens_total",
                                      "Prompt tokens found in a worker's prefix cache.")),
      output_tokens_(metrics->Counter("choir_output_tokens_total", "Generated tokens delivered.")),
      audit_disk_free_(metrics->Gauge(kAuditDisk, kAuditDiskHelp, {{"state", "free"}})),
      audit_disk_total_(metrics->Gauge(kAuditDisk, kAuditDiskHelp, {{"state", "total"}})) {
  reload_success.Set(1);
  for (const char* ledger :
       {"requests", "sequences", "limit_tokens", "permits", "admission_tokens"})
    SetLedger(ledger, 0);
  MakeKnownSeries();
}

// A series that begins with its first event hides that event from rate() and from differences, so
// what is known beforehand begins at 0. Tenants are not known; "none" is who has no valid key.
void RouterMetrics::MakeKnownSeries() {
  for (const char* reason :
       {"invalid_value", "context_length_exceeded", "invalid_api_key", "permission_denied",
        "insufficient_balance", "model_not_found", "requests", "tokens", "concurrency",
        "queue_full", "deadline", "draining", "not_ready", "audit", "timeout", "internal_error"}) {
    Rejected(reason);
  }
  for (const bool known : {false, true}) LookedUp(known);
  for (const RouteReason reason : kRouteReasons) Routed(RouteReasonName(reason));
  for (const LossCause cause :
       {LossCause::kWorkerLost, LossCause::kEpochEnded, LossCause::kRefused}) {
    Retried(LossCauseName(cause));
  }
  for (const char* phase : {"intent", "outcome", "refused", "admin", "gap"}) {
    Labelled("choir_audit_records_total", "Audit records written.", {{"phase", phase}});
  }
  SetPrefix({}, {}, 0);  // of a policy that does not predict, too: dashboards show it
  std::lock_guard lock(mu_);
  Ended("none", 401);
}

prometheus::Counter& RouterMetrics::Labelled(const std::string& name, const std::string& help,
                                             const MetricLabels& labels) {
  std::string key = name;
  for (const auto& [label, value] : labels) key += '\0' + value;
  std::lock_guard lock(mu_);
  prometheus::Counter*& counter = counters_[key];
  if (counter == nullptr) counter = &metrics_->Counter(name, help, labels);
  return *counter;
}

void RouterMetrics::OnAuditRecord(const std::string& phase) {
  Labelled("choir_audit_records_total", "Audit records written.", {{"phase", phase}}).Increment();
}

void RouterMetrics::OnEnd(const std::string& tenant, int code, double seconds, const Usage& usage) {
  {
    const std::string label =
        tenant.empty() ? "none" : metrics_->Capped("choir_requests_total", tenant);
    std::lock_guard lock(mu_);
    // All ends of a tenant begin together, for the same reason as the known series.
    if (!tenant.empty() && !requests_.contains({label, code})) {
      for (const int other : {200, 400, 402, 404, 429, 499, 500, 503, 504}) Ended(label, other);
    }
    Ended(label, code).Increment();
  }
  duration_seconds_.Observe(seconds);
  prompt_tokens_.Increment(usage.prompt_tokens);
  cached_tokens_.Increment(usage.cached_tokens);
  output_tokens_.Increment(usage.output_tokens);
}

// REQUIRES: mu_ held.
prometheus::Counter& RouterMetrics::Ended(const std::string& tenant, int code) {
  prometheus::Counter*& counter = requests_[{tenant, code}];
  if (counter == nullptr) {
    counter =
        &metrics_->Counter("choir_requests_total", "Requests ended, by the HTTP code of their end.",
                           {{"model", model_}, {"tenant", tenant}, {"code", std::to_string(code)}});
  }
  return *counter;
}

prometheus::Counter& RouterMetrics::Rejected(const std::string& reason) {
  return Labelled("choir_rejected_total",
                  "Requests refused before any of their answer, by the error's code.",
                  {{"reason", reason}});
}

prometheus::Counter& RouterMetrics::Routed(const std::string& reason) {
  return Labelled("choir_route_total", "Sequences placed on a rank, by why it was chosen.",
                  {{"reason", reason}});
}

prometheus::Counter& RouterMetrics::LookedUp(bool known) {
  return Labelled("choir_result_cache_requests_total",
                  "Questions that may be repeated, by whether their answer was known.",
                  {{"result", known ? "hit" : "miss"}});
}

prometheus::Counter& RouterMetrics::Retried(const std::string& cause) {
  return Labelled("choir_retries_total", "Sequences run again on a rank, by what befell them.",
                  {{"cause", cause}});
}

void RouterMetrics::OnRejected(const std::string& reason) { Rejected(reason).Increment(); }
void RouterMetrics::OnLookup(bool known) { LookedUp(known).Increment(); }
void RouterMetrics::OnRouted(const char* reason) { Routed(reason).Increment(); }
void RouterMetrics::OnRetry(const char* cause) { Retried(cause).Increment(); }

void RouterMetrics::SetLedger(const std::string& ledger, int64_t difference) {
  std::lock_guard lock(mu_);
  prometheus::Gauge*& gauge = ledgers_[ledger];
  if (gauge == nullptr) {
    gauge = &metrics_->Gauge("choir_ledger_difference",
                             "Both sides of a ledger subtracted: anything but 0 is a bug.",
                             {{"ledger", ledger}});
  }
  gauge->Set(static_cast<double>(difference));
}

void RouterMetrics::SetAuditDisk(const std::string& dir) {
  struct statvfs disk = {};
  if (dir.empty() || statvfs(dir.c_str(), &disk) != 0) return;
  const auto bytes = [&](fsblkcnt_t blocks) {
    return static_cast<double>(blocks) * static_cast<double>(disk.f_frsize);
  };
  audit_disk_free_.Set(bytes(disk.f_bavail));
  audit_disk_total_.Set(bytes(disk.f_blocks));
}

void RouterMetrics::SetPrefix(const PrefixStats& now, const PrefixStats& published,
                              uint64_t ranks_degraded) {
  const auto add = [this](const char* name, const char* help, const MetricLabels& labels,
                          uint64_t from, uint64_t to) {
    if (to < from) from = 0;  // another policy's count
    Labelled(name, help, labels).Increment(static_cast<double>(to - from));
  };
  const auto tokens = [&](const char* kind, uint64_t from, uint64_t to) {
    add("choir_route_prefix_tokens_total",
        "Prompt tokens of placed sequences: predicted to be cached, cached in truth, predicted but "
        "missing, cached but unforeseen.",
        {{"kind", kind}}, from, to);
  };
  tokens("predicted", published.predicted_tokens, now.predicted_tokens);
  tokens("cached", published.cached_tokens, now.cached_tokens);
  tokens("missing", published.missing_tokens, now.missing_tokens);
  tokens("unforeseen", published.unforeseen_tokens, now.unforeseen_tokens);
  const char* const predictions = "choir_route_predictions_total";
  const char* const help = "Predictions of what a rank has cached, by whether it said the same.";
  add(predictions, help, {{"result", "agreed"}}, published.agreed, now.agreed);
  add(predictions, help, {{"result", "differed"}}, published.predictions - published.agreed,
      now.predictions - now.agreed);
  add("choir_route_index_forgotten_total", "Ends of prompt blocks forgotten for want of room.", {},
      published.forgotten_blocks, now.forgotten_blocks);
  metrics_->Gauge("choir_route_index_blocks", "Ends of prompt blocks that the router remembers.")
      .Set(static_cast<double>(now.index_blocks));
  metrics_
      ->Gauge("choir_route_ranks_degraded",
              "Ready ranks of which the router does not know well what they have cached.")
      .Set(static_cast<double>(ranks_degraded));
}

void RouterMetrics::SetWorkers(const Snapshot& snapshot) {
  std::lock_guard lock(mu_);
  std::set<std::string> present;
  const auto gauge = [&](const std::string& worker, const char* state) -> prometheus::Gauge& {
    prometheus::Gauge*& g = worker_states_[{worker, state}];
    if (g == nullptr) {
      g = &metrics_->Gauge("choir_worker_state",
                           "1 for the state that a worker is in; open and half_open are its "
                           "circuit breaker's, beside it.",
                           {{"worker", worker}, {"state", state}});
    }
    return *g;
  };
  for (const auto& [key, g] : worker_states_) g->Set(0);
  for (const WorkerView& worker : snapshot.workers) {
    const std::string name =
        metrics_->Capped("choir_worker_state", worker.identity->worker_id, 4096);
    for (const WorkerPhase phase : kWorkerPhases) gauge(name, WorkerPhaseName(phase));
    gauge(name, WorkerPhaseName(worker.phase)).Set(1);
    for (const BreakerState state : {BreakerState::kOpen, BreakerState::kHalfOpen}) {
      gauge(name, BreakerStateName(state)).Set(worker.breaker == state ? 1 : 0);
    }
  }
}

}  // namespace choir
