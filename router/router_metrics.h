// The router's metrics (contract: metrics, row "router"). Thread-safe; series with labels that are
// not known at start are looked up once and kept.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "common/metrics/metrics.h"
#include "router/admission_metrics.h"
#include "router/base/types.h"
#include "router/membership/snapshot.h"
#include "router/policy/policy.h"

namespace choir {

class RouterMetrics {
 public:
  RouterMetrics(Metrics* metrics, const std::string& model);

  // Per request, at its end.
  void OnEnd(const std::string& tenant, int code, double seconds, const Usage& usage);
  // Every request that got no answer because it was refused, by its error's code.
  void OnRejected(const std::string& reason);
  void OnRouted(const char* reason);
  // Whether the answer to a question that may be repeated was known.
  void OnLookup(bool known);
  void OnRetry(const char* cause);
  void OnAuditRecord(const std::string& phase);
  void SetWorkers(const Snapshot& snapshot);
  // `published` is what was given here before.
  void SetPrefix(const PrefixStats& now, const PrefixStats& published, uint64_t ranks_degraded);
  // What the file system of that directory has; of one that is not there nothing is said.
  void SetAuditDisk(const std::string& dir);
  void SetLedger(const std::string& ledger, int64_t difference);

  AdmissionMetrics admission;
  prometheus::Gauge& inflight;
  prometheus::Gauge& result_cache_bytes;
  prometheus::Gauge& draining;
  prometheus::Gauge& reload_success;
  prometheus::Gauge& limit_degraded;
  prometheus::Counter& resumed_streams;
  prometheus::Counter& ghost_sequences;
  prometheus::Counter& retry_budget_exhausted;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& ttft_seconds;
  prometheus::Histogram& itl_seconds;
  prometheus::Histogram& decision_seconds;
  prometheus::Histogram& text_seconds;   // overhead: template and tokens
  prometheus::Histogram& audit_seconds;  // overhead: intent
  prometheus::Histogram& audit_fsync_seconds;
  prometheus::Gauge& audit_backlog;
  prometheus::Counter& audit_dropped;
  prometheus::Histogram& dispatch_seconds;  // overhead: from tokens to the worker's stream

 private:
  prometheus::Counter& Labelled(const std::string& name, const std::string& help,
                                const MetricLabels& labels);
  prometheus::Counter& Rejected(const std::string& reason);
  prometheus::Counter& Routed(const std::string& reason);
  prometheus::Counter& LookedUp(bool known);
  prometheus::Counter& Retried(const std::string& cause);
  prometheus::Counter& Ended(const std::string& tenant, int code);  // `tenant` is capped already

  Metrics* metrics_;
  const std::string model_;
  prometheus::Histogram& duration_seconds_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& output_tokens_;
  prometheus::Gauge& audit_disk_free_;
  prometheus::Gauge& audit_disk_total_;

  void MakeKnownSeries();

  std::mutex mu_;  // guards the maps
  std::map<std::tuple<std::string, int>, prometheus::Counter*> requests_;
  std::map<std::string, prometheus::Counter*> counters_;
  std::map<std::string, prometheus::Gauge*> ledgers_;
  std::map<std::tuple<std::string, std::string>, prometheus::Gauge*> worker_states_;
};

}  // namespace choir
