#include "gateway/gateway_metrics.h"

namespace choir {
namespace {

constexpr int kUsualCodes[] = {200, 400, 401, 404, 405, 413, 429, 499, 500, 503, 504};

}  // namespace

GatewayMetrics::GatewayMetrics(Metrics* metrics)
    : metrics_(metrics),
      open_streams_(metrics->Gauge("choir_http_open_streams", "Answers being streamed now.")),
      sse_events_(metrics->Counter("choir_sse_events_total", "Server-sent events written.")),
      draining_(metrics->Gauge("choir_draining", "1 while this process drains.")),
      reload_success_(metrics->Gauge("choir_config_reload_success",
                                     "1: the files that are followed are in force.")),
      difference_(metrics->Gauge("choir_ledger_difference",
                                 "Opened less answered less running requests; must be 0.",
                                 {{"ledger", "requests"}})) {
  reload_success_.Set(1);
}

void GatewayMetrics::AddRoute(const std::string& route) {
  RouteSeries& series = SeriesOf(route);
  for (const int code : kUsualCodes) (void)CounterOf(&series, route, code);
}

GatewayMetrics::RunningRequest::RunningRequest(GatewayMetrics* metrics) : metrics_(metrics) {
  ++metrics_->opened_;
  ++metrics_->running_;
  metrics_->Balance();
}

GatewayMetrics::RunningRequest::~RunningRequest() {
  --metrics_->running_;
  metrics_->Balance();
}

void GatewayMetrics::RequestFinished(const std::string& route, int code, double seconds) {
  RouteSeries& series = SeriesOf(route);
  CounterOf(&series, route, code).Increment();
  series.seconds->Observe(seconds);
  ++answered_;
}

void GatewayMetrics::Balance() {
  difference_.Set(static_cast<double>(opened_ - answered_ - running_));
}

GatewayMetrics::RouteSeries& GatewayMetrics::SeriesOf(const std::string& route) {
  RouteSeries& series = routes_[route];
  if (series.seconds == nullptr) {
    series.seconds = &metrics_->Histogram("choir_http_request_duration_seconds",
                                          "From the header to the end of the answer.",
                                          Metrics::RequestSeconds(), {{"route", route}});
  }
  return series;
}

prometheus::Counter& GatewayMetrics::CounterOf(RouteSeries* series, const std::string& route,
                                               int code) {
  prometheus::Counter*& counter = series->by_code[code];
  if (counter == nullptr) {
    counter = &metrics_->Counter("choir_http_requests_total",
                                 "Requests by route and status; 499: the client went away.",
                                 {{"route", route}, {"code", std::to_string(code)}});
  }
  return *counter;
}

}  // namespace choir
