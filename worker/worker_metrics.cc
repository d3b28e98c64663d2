#include "worker/worker_metrics.h"

namespace choir {
namespace {

const std::vector<double>& TokenBuckets() {
  static const std::vector<double> buckets = {1,   2,   4,   8,    16,   32,   64,
                                              128, 256, 512, 1024, 2048, 4096, 8192};
  return buckets;
}

constexpr char kPlacements[] = "choir_expert_placements_total";
constexpr char kPlacementsHelp[] = "Attempts at a better placement of experts, by how they ended.";

void CountUp(prometheus::Counter& counter, uint64_t before, uint64_t now) {
  if (now > before) counter.Increment(static_cast<double>(now - before));
}

}  // namespace

WorkerMetrics::WorkerMetrics(int64_t group, int64_t rank, int64_t num_ranks)
    : num_ranks_(static_cast<double>(num_ranks)),
      rank_imbalance_(metrics_.Gauge("choir_expert_rank_imbalance_ratio",
                                     "Tokens of the rank with most over the ranks' mean, averaged "
                                     "over the layers, of the last look; 0: not known yet.")),
      placement_version_(metrics_.Gauge("choir_expert_placement_version",
                                        "Placements of experts put in force in this epoch.")),
      expert_copies_(metrics_.Gauge("choir_expert_copies",
                                    "Copies of experts beyond the first, of the group, in all "
                                    "layers.")),
      sole_experts_(
          metrics_.Gauge("choir_expert_sole_copies",
                         "Experts of all layers that one rank of the group alone holds.")),
      graph_captures_(metrics_.Counter("choir_graph_captures_total",
                                       "Decode steps that were recorded as graphs of the GPU.")),
      graph_steps_(
          metrics_.Counter("choir_graph_steps_total", "Decode steps that were launched as one.")),
      expert_moves_(metrics_.Counter("choir_expert_moves_total",
                                     "Experts that this rank read to put a placement in force.")),
      placements_applied_(metrics_.Counter(kPlacements, kPlacementsHelp, {{"result", "applied"}})),
      placements_kept_(metrics_.Counter(kPlacements, kPlacementsHelp, {{"result", "kept"}})),
      placements_failed_(metrics_.Counter(kPlacements, kPlacementsHelp, {{"result", "failed"}})),
      running_(metrics_.Gauge("choir_requests_running", "Sequences that the engine computes.")),
      waiting_(metrics_.Gauge("choir_requests_waiting", "Sequences that wait for their turn.")),
      vllm_running_(metrics_.Gauge("vllm:num_requests_running", "As choir_requests_running.")),
      vllm_waiting_(metrics_.Gauge("vllm:num_requests_waiting", "As choir_requests_waiting.")),
      vllm_kv_usage_(metrics_.Gauge("vllm:kv_cache_usage_perc", "As choir_kv_usage_ratio.")),
      kv_free_(metrics_.Gauge("choir_kv_blocks", "Blocks of the KV cache.", {{"state", "free"}})),
      kv_held_(metrics_.Gauge("choir_kv_blocks", "Blocks of the KV cache.", {{"state", "held"}})),
      kv_cached_(
          metrics_.Gauge("choir_kv_blocks", "Blocks of the KV cache.", {{"state", "cached"}})),
      kv_usage_(metrics_.Gauge("choir_kv_usage_ratio", "Held blocks of all, 0 to 1.")),
      last_step_(metrics_.Gauge("choir_last_step_timestamp_seconds",
                                "Unix time of the last step, or of the last look for work.")),
      epoch_(metrics_.Gauge("choir_group_epoch",
                            "Epoch of the group that this rank serves; 0: none.")),
      ranks_serving_(metrics_.Gauge("choir_ranks", "Ranks of the group as this one sees them.",
                                    {{"state", "serving"}})),
      ranks_waiting_(metrics_.Gauge("choir_ranks", "Ranks of the group as this one sees them.",
                                    {{"state", "waiting"}})),
      draining_(
          metrics_.Gauge("choir_draining", "1 while running work ends and nothing new is taken.")),
      ledger_(metrics_.Gauge("choir_ledger_difference", "Must be 0; anything else is a bug.",
                             {{"ledger", "kv_blocks"}})),
      imbalance_(metrics_.Gauge("choir_expert_imbalance_ratio",
                                "Tokens of the busiest of this rank's experts over their "
                                "mean, averaged over the layers.")),
      load_done_(metrics_.Gauge("choir_load_bytes", "Bytes of weights to read and read.",
                                {{"state", "done"}})),
      load_total_(metrics_.Gauge("choir_load_bytes", "Bytes of weights to read and read.",
                                 {{"state", "total"}})),
      reload_success_(metrics_.Gauge("choir_config_reload_success",
                                     "1: the files that are followed are in force.")),
      ghosts_(metrics_.Counter("choir_ghost_sequences_total",
                               "Sequences cancelled because their router did not know them.")),
      preemptions_(metrics_.Counter("choir_preemptions_total", "Sequences put back to waiting.")),
      prefix_queries_(metrics_.Counter("choir_prefix_queries_tokens_total",
                                       "Tokens of admitted sequences, looked up in the prefix "
                                       "cache.")),
      prefix_hits_(metrics_.Counter("choir_prefix_hit_tokens_total",
                                    "Of them, those found there and not computed.")),
      dispatch_bytes_(metrics_.Counter("choir_a2a_bytes_total", "Bytes sent to other ranks.",
                                       {{"op", "dispatch"}})),
      combine_bytes_(metrics_.Counter("choir_a2a_bytes_total", "Bytes sent to other ranks.",
                                      {{"op", "combine"}})),
      prefill_seconds_(metrics_.Histogram("choir_step_seconds",
                                          "Time of a step, by what it computed.",
                                          Metrics::StepSeconds(), {{"phase", "prefill"}})),
      decode_seconds_(metrics_.Histogram("choir_step_seconds",
                                         "Time of a step, by what it computed.",
                                         Metrics::StepSeconds(), {{"phase", "decode"}})),
      step_tokens_(metrics_.Histogram("choir_step_tokens", "Tokens of a step.", TokenBuckets())),
      dispatch_seconds_(metrics_.Histogram("choir_a2a_seconds",
                                           "Time of a step that the host spends in the exchange.",
                                           Metrics::StepSeconds(), {{"op", "dispatch"}})),
      combine_seconds_(metrics_.Histogram("choir_a2a_seconds",
                                          "Time of a step that the host spends in the exchange.",
                                          Metrics::StepSeconds(), {{"op", "combine"}})) {
  reload_success_.Set(1);
  metrics_
      .Gauge("choir_rank_info", "Always 1; the labels say which rank of which group this is.",
             {{"group", std::to_string(group)}, {"rank", std::to_string(rank)}})
      .Set(1);
}

void WorkerMetrics::LoadProgress(int64_t done, int64_t total) {
  load_done_.Set(static_cast<double>(done));
  load_total_.Set(static_cast<double>(total));
}

void WorkerMetrics::LoadSeconds(const std::string& phase, double seconds) {
  metrics_.Gauge("choir_load_seconds", "Time of each part of the start.", {{"phase", phase}})
      .Set(seconds);
}

void WorkerMetrics::AfterStep(const EngineStats& stats) {
  std::lock_guard lock(mu_);
  if (stats.steps == observed_.steps) return;
  const auto observe = [](prometheus::Histogram& histogram, double before, double now) {
    if (now > before) histogram.Observe(now - before);
  };
  observe(prefill_seconds_, observed_.prefill_seconds, stats.prefill_seconds);
  observe(decode_seconds_, observed_.decode_seconds, stats.decode_seconds);
  observe(dispatch_seconds_, observed_.exchange.dispatch_seconds, stats.exchange.dispatch_seconds);
  observe(combine_seconds_, observed_.exchange.combine_seconds, stats.exchange.combine_seconds);
  observe(step_tokens_, static_cast<double>(observed_.step_tokens),
          static_cast<double>(stats.step_tokens));
  observed_ = stats;
}

void WorkerMetrics::SetGhosts(uint64_t total) {
  std::lock_guard lock(mu_);
  CountUp(ghosts_, ghosts_counted_, total);
  ghosts_counted_ = total;
}

std::string WorkerMetrics::Text(const EngineStats& stats, const WorkerStatus& status) {
  std::lock_guard lock(mu_);
  const double usage = stats.kv_blocks_total == 0 ? 0
                                                  : static_cast<double>(stats.kv_blocks_held) /
                                                        static_cast<double>(stats.kv_blocks_total);
  running_.Set(stats.load.running);
  waiting_.Set(stats.load.waiting);
  vllm_running_.Set(stats.load.running);
  vllm_waiting_.Set(stats.load.waiting);
  vllm_kv_usage_.Set(usage);
  kv_free_.Set(static_cast<double>(stats.kv_blocks_free));
  kv_held_.Set(static_cast<double>(stats.kv_blocks_held));
  kv_cached_.Set(static_cast<double>(stats.kv_blocks_cached));
  kv_usage_.Set(usage);
  last_step_.Set(stats.last_step_wall);
  epoch_.Set(static_cast<double>(status.epoch));
  ranks_serving_.Set(status.epoch != 0 ? num_ranks_ : 0);
  ranks_waiting_.Set(status.epoch != 0 ? 0 : num_ranks_);
  draining_.Set(status.draining ? 1 : 0);
  ledger_.Set(static_cast<double>(stats.ledger_difference));
  RefreshCounters(stats);
  return metrics_.Text();
}

void WorkerMetrics::RefreshCounters(const EngineStats& stats) {
  CountUp(preemptions_, counted_.preemptions, stats.preemptions);
  CountUp(prefix_queries_, counted_.prefix_query_tokens, stats.prefix_query_tokens);
  CountUp(prefix_hits_, counted_.prefix_hit_tokens, stats.prefix_hit_tokens);
  CountUp(dispatch_bytes_, counted_.exchange.dispatch_bytes, stats.exchange.dispatch_bytes);
  CountUp(combine_bytes_, counted_.exchange.combine_bytes, stats.exchange.combine_bytes);
  CountUp(graph_captures_, counted_.graphs.captures, stats.graphs.captures);
  CountUp(graph_steps_, counted_.graphs.replays, stats.graphs.replays);
  RefreshExperts(stats);
  RefreshPlacement(stats);
  counted_ = stats;
}

void WorkerMetrics::RefreshPlacement(const EngineStats& stats) {
  const ExpertPlacementStats &now = stats.placement, &before = counted_.placement;
  rank_imbalance_.Set(now.rank_imbalance);
  placement_version_.Set(static_cast<double>(now.version));
  expert_copies_.Set(static_cast<double>(now.copies));
  sole_experts_.Set(static_cast<double>(now.sole));
  CountUp(expert_moves_, before.moves, now.moves);
  CountUp(placements_applied_, before.applied, now.applied);
  CountUp(placements_kept_, before.kept, now.kept);
  CountUp(placements_failed_, before.failed, now.failed);
}

// Series of the buckets in which this rank has experts, or had, of each layer.
void WorkerMetrics::RefreshExperts(const EngineStats& stats) {
  if (stats.experts == nullptr || stats.experts->layers.empty()) return;
  const ExpertLoad& load = *stats.experts;
  const auto buckets = static_cast<size_t>(load.buckets);
  expert_tokens_.resize(load.tokens.size());
  for (size_t l = 0; l < load.layers.size(); ++l) {
    for (size_t b = 0; b < buckets; ++b) {
      const size_t i = l * buckets + b;
      if (!load.here[i]) continue;
      prometheus::Counter*& counter = expert_tokens_[i];
      if (counter == nullptr) {
        counter = &metrics_.Counter(
            "choir_expert_tokens_total",
            "Tokens computed by this rank's experts, by bucket of neighbouring experts.",
            {{"layer", std::to_string(load.layers[l])}, {"expert_bucket", std::to_string(b)}});
      }
      CountUp(*counter, counted_.experts == nullptr ? 0 : counted_.experts->tokens[i],
              load.tokens[i]);
    }
  }
  imbalance_.Set(load.imbalance);
}

}  // namespace choir
