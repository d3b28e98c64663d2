#include "gateway/gateway_metrics.h"

namespace choir {

GatewayMetrics::GatewayMetrics(Metrics* metrics)
    : metrics_(metrics),
      open_streams_(metrics->Gauge("choir_http_open_streams", "Answers being streamed now.")),
      sse_events_(metrics->Counter("choir_sse_events_total", "Server-sent events written.")),
      draining_(metrics->Gauge("choir_draining", "1 while this process drains.")) {
  metrics
      ->Gauge("choir_config_reload_success",
              "1 when the last reading of the configuration was good.")
      .Set(1);
}

void GatewayMetrics::RequestFinished(const std::string& route, int code, double seconds) {
  metrics_
      ->Counter("choir_http_requests_total",
                "Requests by route and status; 499: the client went away.",
                {{"route", route}, {"code", std::to_string(code)}})
      .Increment();
  metrics_
      ->Histogram("choir_http_request_duration_seconds",
                  "From the header to the end of the answer.", Metrics::RequestSeconds(),
                  {{"route", route}})
      .Observe(seconds);
}

}  // namespace choir
