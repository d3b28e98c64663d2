#include "worker/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;

TEST(WorkerMetrics, ShowsTheEnginesStatistics) {
  WorkerMetrics metrics(2);
  metrics.LoadProgress(10, 20);
  metrics.LoadSeconds("weights", 1.5);
  EngineStats stats{.load = {.running = 3, .waiting = 4}};
  stats.kv_blocks_total = 10;
  stats.kv_blocks_held = 5;
  stats.kv_blocks_free = 5;
  stats.preemptions = 2;
  stats.steps = 1;
  stats.step_tokens = 7;
  stats.decode_seconds = 0.25;
  stats.exchange.dispatch_bytes = 100;
  stats.expert_tokens.assign(130, 1);
  stats.expert_tokens[0] = 3;
  metrics.AfterStep(stats);
  metrics.AfterStep(stats);  // an output without a step is no step
  std::string text = metrics.Text(stats, {.ready = true, .draining = true, .epoch = 9});
  for (const char* line :
       {"choir_requests_running 3\n", "choir_requests_waiting 4\n", "vllm:num_requests_running 3\n",
        "vllm:kv_cache_usage_perc 0.5\n", "choir_kv_blocks{state=\"held\"} 5\n",
        "choir_kv_usage_ratio 0.5\n", "choir_preemptions_total 2\n", "choir_group_epoch 9\n",
        "choir_ranks{state=\"serving\"} 2\n", "choir_draining 1\n",
        "choir_ledger_difference{ledger=\"kv_blocks\"} 0\n",
        "choir_a2a_bytes_total{op=\"dispatch\"} 100\n",
        "choir_step_seconds_count{phase=\"decode\"} 1\n",
        "choir_step_seconds_sum{phase=\"decode\"} 0.25\n", "choir_step_tokens_sum 7\n",
        "choir_load_bytes{state=\"total\"} 20\n", "choir_load_seconds{phase=\"weights\"} 1.5\n",
        "choir_expert_tokens_total{expert_bucket=\"63\",layer=\"all\"}"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_EQ(text.find("expert_bucket=\"64\""), std::string::npos)
      << "the number of series is capped";
  stats.preemptions = 5;
  text = metrics.Text(stats, {});
  EXPECT_THAT(text, HasSubstr("choir_preemptions_total 5\n"));
  EXPECT_THAT(text, HasSubstr("choir_ranks{state=\"waiting\"} 2\n"));
}

}  // namespace
}  // namespace choir
