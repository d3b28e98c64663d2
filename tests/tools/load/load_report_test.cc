#include "tools/load/load_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace choir {
namespace {

TEST(LoadReportTest, PercentilesAreMeasuredValuesByNearestRank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles p = PercentilesOf(values);
  EXPECT_EQ(p.count, 100u);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p90, 90);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(p.max, 100);
  EXPECT_EQ(PercentilesOf({7}).p99, 7);
  EXPECT_EQ(PercentilesOf({}).count, 0u);
}

TEST(LoadReportTest, CountsLatencyFromTheDueTimeAndLeavesFailedRequestsOut) {
  const LoadRecord good{.due = 1,
                        .end = 3.5,
                        .code = 200,
                        .pieces = {1.5, 2, 3},
                        .prompt_tokens = 10,
                        .cached_tokens = 4,
                        .output_tokens = 3};
  const LoadRecord refused{.due = 0, .end = 0.1, .code = 503, .error = "full"};
  const LoadReport report = ReportOf({good, refused, refused});
  EXPECT_EQ(report.complete, 1);
  EXPECT_EQ(report.errors.at("503: full"), 2);
  EXPECT_DOUBLE_EQ(report.seconds, 3.5);
  EXPECT_DOUBLE_EQ(report.ttft.p50, 0.5);
  EXPECT_DOUBLE_EQ(report.total.max, 2.5);
  EXPECT_EQ(report.itl.count, 2u);
  EXPECT_DOUBLE_EQ(report.output_tokens_per_s(), 3 / 3.5);
  const auto json = ToJson(report);
  EXPECT_EQ(json["errors"]["503: full"], 2);
  EXPECT_EQ(json["cached_tokens"], 4);
}

}  // namespace
}  // namespace choir
