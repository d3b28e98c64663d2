// The worker's metrics (contract: "all" and "worker"), refreshed from the engine's statistics:
// after each step the histograms, at each scrape the rest. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "common/metrics/metrics.h"
#include "worker/engine/engine.h"
#include "worker/rpc/worker_server.h"

namespace choir {

class WorkerMetrics {
 public:
  WorkerMetrics(int64_t group, int64_t rank, int64_t num_ranks);

  void LoadProgress(int64_t done, int64_t total);
  void LoadSeconds(const std::string& phase, double seconds);  // weights, engine, self_test

  void AfterStep(const EngineStats& stats);
  // Whether the files that are followed are in force as they are now.
  void SetReloadSuccess(bool success) { reload_success_.Set(success ? 1 : 0); }
  void SetGhosts(uint64_t total);
  Metrics* registry() { return &metrics_; }
  // The whole page.
  std::string Text(const EngineStats& stats, const WorkerStatus& status);

 private:
  void RefreshCounters(const EngineStats& stats);
  void RefreshExperts(const EngineStats& stats);
  void RefreshPlacement(const EngineStats& stats);

  const double num_ranks_;
  Metrics metrics_{"worker"};
  std::mutex mu_;         // guards all below
  EngineStats observed_;  // by AfterStep
  EngineStats counted_;   // by Text
  uint64_t ghosts_counted_ = 0;
  std::vector<prometheus::Counter*> expert_tokens_;  // as ExpertLoad::tokens; null: another rank's

  // Where experts lie.
  prometheus::Gauge &rank_imbalance_, &placement_version_, &expert_copies_, &sole_experts_;
  prometheus::Counter &graph_captures_, &graph_steps_;
  prometheus::Counter &expert_moves_, &placements_applied_, &placements_kept_, &placements_failed_;

  prometheus::Gauge &running_, &waiting_, &vllm_running_, &vllm_waiting_, &vllm_kv_usage_;
  prometheus::Gauge &kv_free_, &kv_held_, &kv_cached_, &kv_usage_;
  prometheus::Gauge &last_step_, &epoch_, &ranks_serving_, &ranks_waiting_, &draining_, &ledger_;
  prometheus::Gauge &imbalance_, &load_done_, &load_total_, &reload_success_;
  prometheus::Counter &ghosts_, &preemptions_, &prefix_queries_, &prefix_hits_, &dispatch_bytes_,
      &combine_bytes_;
  prometheus::Histogram &prefill_seconds_, &decode_seconds_, &step_tokens_;
  prometheus::Histogram &dispatch_seconds_, &combine_seconds_;
};

}  // namespace choir
