#include "router/router_metrics.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

// A series for each of many tenants is what a scrape dies of.
TEST(RouterMetricsTest, ManyTenantsMakeFewSeries) {
  Metrics metrics("router");
  RouterMetrics router(&metrics, "tiny");
  for (int i = 0; i < 5000; ++i) {
    router.OnEnd("tenant" + std::to_string(i), 200, 0.1, {.prompt_tokens = 1, .output_tokens = 1});
  }
  const std::string text = metrics.Text();
  size_t series = 0;
  for (size_t at = 0; (at = text.find("\nchoir_requests_total{", at)) != std::string::npos; ++at) {
    ++series;
  }
  EXPECT_GT(series, 1000u / 2);
  EXPECT_LT(series, 1000u) << "a hundred tenants and the others, each with its codes";
  EXPECT_NE(text.find(R"(choir_requests_total{code="200",model="tiny",tenant="other"} 4900)"),
            std::string::npos);
}

}  // namespace
}  // namespace choir
