// All metrics of the gateway. Registered once; used on the io thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/metrics/metrics.h"

namespace choir {

class GatewayMetrics {
 public:
  explicit GatewayMetrics(Metrics* metrics);

  // Makes the route's series with the usual codes, so that rates begin at zero and not with the
  // first error.
  void AddRoute(const std::string& route);

  // Held from a request's header to the end of its answer: the running side of the ledger.
  class RunningRequest {
   public:
    explicit RunningRequest(GatewayMetrics* metrics);
    ~RunningRequest();
    RunningRequest(const RunningRequest&) = delete;
    RunningRequest& operator=(const RunningRequest&) = delete;

   private:
    GatewayMetrics* const metrics_;
  };
  void RequestFinished(const std::string& route, int code, double seconds);

  void StreamOpened() { open_streams_.Increment(); }
  void StreamClosed() { open_streams_.Decrement(); }
  void SseEvents(double count) { sse_events_.Increment(count); }
  // Whether the files that are followed are in force as they are now. Any thread.
  void SetReloadSuccess(bool success) { reload_success_.Set(success ? 1 : 0); }
  void SetDraining(bool draining) { draining_.Set(draining ? 1 : 0); }

 private:
  struct RouteSeries {
    prometheus::Histogram* seconds = nullptr;
    std::map<int, prometheus::Counter*> by_code;
  };
  RouteSeries& SeriesOf(const std::string& route);
  prometheus::Counter& CounterOf(RouteSeries* series, const std::string& route, int code);
  // opened - answered - running: a request that ended without being counted stays in it.
  void Balance();

  Metrics* const metrics_;
  prometheus::Gauge& open_streams_;
  prometheus::Counter& sse_events_;
  prometheus::Gauge& draining_;
  prometheus::Gauge& reload_success_;
  prometheus::Gauge& difference_;
  std::map<std::string, RouteSeries> routes_;
  int64_t opened_ = 0, answered_ = 0, running_ = 0;
};

}  // namespace choir
