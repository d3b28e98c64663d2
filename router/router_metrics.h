// The router's metrics (contract: metrics, row "router"). Thread-safe; series with labels that are
// not known at start are looked up once and kept.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "common/metrics/metrics.h"
#include "router/base/types.h"
#include "router/membership/snapshot.h"

namespace choir {

class RouterMetrics {
 public:
  RouterMetrics(Metrics* metrics, const std::string& model);

  // Per request, at its end.
  void OnEnd(const std::string& tenant, int code, double seconds, const Usage& usage);
  // Every request that got no answer because it was refused, by its error's code.
  void OnRejected(const std::string& reason);
  void OnRouted(const char* reason);
  void OnRetry(const char* cause);
  void SetWorkers(const Snapshot& snapshot);
  void SetLedger(const std::string& ledger, int64_t difference);

  prometheus::Gauge& inflight;
  prometheus::Gauge& queue_depth;
  prometheus::Gauge& draining;
  prometheus::Gauge& reload_success;
  prometheus::Counter& resumed_streams;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& ttft_seconds;
  prometheus::Histogram& itl_seconds;
  prometheus::Histogram& decision_seconds;
  prometheus::Histogram& text_seconds;      // overhead: template and tokens
  prometheus::Histogram& audit_seconds;     // overhead: intent
  prometheus::Histogram& dispatch_seconds;  // overhead: from tokens to the worker's stream

 private:
  prometheus::Counter& Labelled(const std::string& name, const std::string& help,
                                const MetricLabels& labels);
  prometheus::Counter& Rejected(const std::string& reason);
  prometheus::Counter& Routed(const std::string& reason);
  prometheus::Counter& Retried(const std::string& cause);
  prometheus::Counter& Ended(const std::string& tenant, int code);  // `tenant` is capped already

  Metrics* metrics_;
  const std::string model_;
  prometheus::Histogram& duration_seconds_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& output_tokens_;

  void MakeKnownSeries();

  std::mutex mu_;  // guards the maps
  std::map<std::tuple<std::string, int>, prometheus::Counter*> requests_;
  std::map<std::string, prometheus::Counter*> counters_;
  std::map<std::string, prometheus::Gauge*> ledgers_;
  std::map<std::tuple<std::string, WorkerPhase>, prometheus::Gauge*> worker_states_;
};

}  // namespace choir
