#include "worker/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;

TEST(WorkerMetrics, ShowsTheEnginesStatistics) {
  WorkerMetrics metrics(3, 1, 2);
  metrics.LoadProgress(10, 20);
  metrics.LoadSeconds("weights", 1.5);
  EngineStats stats{.load = {.running = 3, .waiting = 4}};
  stats.kv_blocks_total = 10;
  stats.kv_blocks_held = 5;
  stats.kv_blocks_free = 3;
  stats.kv_blocks_cached = 2;
  stats.prefix_query_tokens = 90;
  stats.prefix_hit_tokens = 64;
  stats.preemptions = 2;
  stats.steps = 1;
  stats.step_tokens = 7;
  stats.decode_seconds = 0.25;
  stats.exchange.dispatch_bytes = 100;
  ExpertLoad experts{.layers = {1, 2}, .buckets = 4};
  experts.tokens = {0, 0, 3, 4, 0, 0, 5, 6};
  experts.here = {false, false, true, true, false, false, true, true};
  experts.imbalance = 1.25;
  stats.experts = std::make_shared<const ExpertLoad>(experts);
  stats.placement = {.rank_imbalance = 1.5, .version = 4, .copies = 6, .sole = 7, .moves = 8};
  stats.placement.failed = 2;
  stats.graphs = {.captures = 5, .replays = 77};
  metrics.AfterStep(stats);
  metrics.AfterStep(stats);  // an output without a step is no step
  std::string text = metrics.Text(stats, {.ready = true, .draining = true, .epoch = 9});
  for (const char* line : {"choir_requests_running 3\n",
                           "choir_requests_waiting 4\n",
                           "vllm:num_requests_running 3\n",
                           "vllm:kv_cache_usage_perc 0.5\n",
                           "choir_kv_blocks{state=\"held\"} 5\n",
                           "choir_kv_blocks{state=\"cached\"} 2\n",
                           "choir_kv_blocks{state=\"free\"} 3\n",
                           "choir_prefix_queries_tokens_total 90\n",
                           "choir_prefix_hit_tokens_total 64\n",
                           "choir_kv_usage_ratio 0.5\n",
                           "choir_preemptions_total 2\n",
                           "choir_group_epoch 9\n",
                           "choir_ranks{state=\"serving\"} 2\n",
                           "choir_draining 1\n",
                           "choir_ledger_difference{ledger=\"kv_blocks\"} 0\n",
                           "choir_a2a_bytes_total{op=\"dispatch\"} 100\n",
                           "choir_step_seconds_count{phase=\"decode\"} 1\n",
                           "choir_step_seconds_sum{phase=\"decode\"} 0.25\n",
                           "choir_step_tokens_sum 7\n",
                           "choir_load_bytes{state=\"total\"} 20\n",
                           "choir_rank_info{group=\"3\",rank=\"1\"} 1\n",
                           "choir_load_seconds{phase=\"weights\"} 1.5\n",
                           "choir_expert_tokens_total{expert_bucket=\"3\",layer=\"1\"} 4\n",
                           "choir_expert_tokens_total{expert_bucket=\"2\",layer=\"2\"} 5\n",
                           "choir_expert_rank_imbalance_ratio 1.5\n",
                           "choir_expert_placement_version 4\n",
                           "choir_expert_copies 6\n",
                           "choir_expert_sole_copies 7\n",
                           "choir_expert_moves_total 8\n",
                           "choir_graph_captures_total 5\n",
                           "choir_graph_steps_total 77\n",
                           "choir_expert_placements_total{result=\"failed\"} 2\n",
                           "choir_expert_placements_total{result=\"applied\"} 0\n",
                           "choir_expert_imbalance_ratio 1.25\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_EQ(text.find("expert_bucket=\"1\""), std::string::npos) << "another rank's experts";
  stats.preemptions = 5;
  experts.tokens[3] = 10;
  stats.experts = std::make_shared<const ExpertLoad>(experts);
  text = metrics.Text(stats, {});
  EXPECT_THAT(text, HasSubstr("choir_preemptions_total 5\n"));
  EXPECT_THAT(text, HasSubstr("choir_expert_tokens_total{expert_bucket=\"3\",layer=\"1\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("choir_ranks{state=\"waiting\"} 2\n"));
}

}  // namespace
}  // namespace choir
