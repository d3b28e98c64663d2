#include "router/router_metrics.h"

#include <set>

#include "router/policy/policy.h"
#include "router/relay/relay.h"

namespace choir {
namespace {

constexpr char kOverhead[] = "choir_overhead_seconds";
constexpr char kOverheadHelp[] = "Time a request spends in one stage of the router itself.";

}  // namespace

RouterMetrics::RouterMetrics(Metrics* metrics, const std::string& model)
    : inflight(metrics->Gauge("choir_requests_inflight", "Requests admitted and not ended.")),
      queue_depth(metrics->Gauge("choir_queue_depth", "Admitted requests not yet sent to a worker.",
                                 {{"class", "default"}})),
      draining(metrics->Gauge("choir_draining", "1 while no new requests are taken.")),
      reload_success(metrics->Gauge("choir_config_reload_success",
                                    "1 when the last reading of keys and workers files was good.")),
      resumed_streams(metrics->Counter("choir_resumed_streams_total",
                                       "Requests that went on after a worker or router was lost.")),
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
      output_tokens_(metrics->Counter("choir_output_tokens_total", "Generated tokens delivered.")) {
  reload_success.Set(1);
  for (const char* ledger : {"requests", "sequences"}) SetLedger(ledger, 0);
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
  for (const RouteReason reason : {RouteReason::kOnlyOne, RouteReason::kLeastLoad}) {
    Routed(RouteReasonName(reason));
  }
  for (const LossCause cause :
       {LossCause::kWorkerLost, LossCause::kEpochEnded, LossCause::kRefused}) {
    Retried(LossCauseName(cause));
  }
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

void RouterMetrics::OnEnd(const std::string& tenant, int code, double seconds, const Usage& usage) {
  {
    const std::string label =
        tenant.empty() ? "none" : metrics_->Capped("choir_requests_total", tenant);
    std::lock_guard lock(mu_);
    // All ends of a tenant begin together, for the same reason as the known series.
    if (!tenant.empty() && !requests_.contains({label, code})) {
      for (const int other : {200, 400, 404, 429, 499, 500, 503, 504}) Ended(label, other);
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

prometheus::Counter& RouterMetrics::Retried(const std::string& cause) {
  return Labelled("choir_retries_total", "Sequences run again on a rank, by what befell them.",
                  {{"cause", cause}});
}

void RouterMetrics::OnRejected(const std::string& reason) { Rejected(reason).Increment(); }
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

void RouterMetrics::SetWorkers(const Snapshot& snapshot) {
  std::lock_guard lock(mu_);
  std::set<std::string> present;
  const auto gauge = [&](const std::string& worker, WorkerPhase phase) -> prometheus::Gauge& {
    prometheus::Gauge*& g = worker_states_[{worker, phase}];
    if (g == nullptr) {
      g = &metrics_->Gauge("choir_worker_state", "1 for the state that a worker is in.",
                           {{"worker", worker}, {"state", WorkerPhaseName(phase)}});
    }
    return *g;
  };
  for (const auto& [key, g] : worker_states_) g->Set(0);
  for (const WorkerView& worker : snapshot.workers) {
    const std::string name =
        metrics_->Capped("choir_worker_state", worker.identity->worker_id, 4096);
    for (const WorkerPhase phase : kWorkerPhases) gauge(name, phase);
    gauge(name, worker.phase).Set(1);
  }
}

}  // namespace choir
