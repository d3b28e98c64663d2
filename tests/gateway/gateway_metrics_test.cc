#include "gateway/gateway_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;

const char kDifference[] = "choir_ledger_difference{ledger=\"requests\"} ";

TEST(GatewayMetricsTest, SeriesOfARouteBeginAtZero) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(&metrics);
  gateway.AddRoute("/v1/models");
  const std::string text = metrics.Text();
  for (const char* code :
       {"200", "400", "401", "404", "405", "413", "429", "499", "500", "503", "504"}) {
    EXPECT_THAT(text, HasSubstr("choir_http_requests_total{code=\"" + std::string(code) +
                                "\",route=\"/v1/models\"} 0\n"));
  }
  EXPECT_THAT(text,
              HasSubstr("choir_http_request_duration_seconds_count{route=\"/v1/models\"} 0\n"));
}

TEST(GatewayMetricsTest, FinishedRequestsAreCountedUnderTheirCode) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(&metrics);
  gateway.AddRoute("/v1/models");
  gateway.RequestFinished("/v1/models", 200, 0.1);
  gateway.RequestFinished("/v1/models", 418, 0.1);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("choir_http_requests_total{code=\"200\",route=\"/v1/models\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("choir_http_requests_total{code=\"418\",route=\"/v1/models\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("choir_http_request_duration_seconds_count{route=\"/v1/models\"} 2\n"));
}

TEST(GatewayMetricsTest, TheLedgerBalancesWhileRequestsRunAndEnd) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(&metrics);
  {
    const GatewayMetrics::RunningRequest one(&gateway), two(&gateway);
    EXPECT_THAT(metrics.Text(), HasSubstr(std::string(kDifference) + "0\n"));
    gateway.RequestFinished("/v1/models", 200, 0.1);
    gateway.RequestFinished("/v1/models", 499, 0.1);
  }
  EXPECT_THAT(metrics.Text(), HasSubstr(std::string(kDifference) + "0\n"));
}

TEST(GatewayMetricsTest, ARequestThatEndsUncountedShowsInTheLedger) {
  Metrics metrics("gateway");
  GatewayMetrics gateway(&metrics);
  { const GatewayMetrics::RunningRequest lost(&gateway); }
  EXPECT_THAT(metrics.Text(), HasSubstr(std::string(kDifference) + "1\n"));
}

}  // namespace
}  // namespace choir
