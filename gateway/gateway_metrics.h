// All metrics of the gateway. Registered once; used on the io thread.
#pragma once

#include <string>

#include "common/metrics/metrics.h"

namespace choir {

class GatewayMetrics {
 public:
  explicit GatewayMetrics(Metrics* metrics);

  void RequestFinished(const std::string& route, int code, double seconds);
  void StreamOpened() { open_streams_.Increment(); }
  void StreamClosed() { open_streams_.Decrement(); }
  void SseEvents(double count) { sse_events_.Increment(count); }
  void SetDraining(bool draining) { draining_.Set(draining ? 1 : 0); }

 private:
  Metrics* const metrics_;
  prometheus::Gauge& open_streams_;
  prometheus::Counter& sse_events_;
  prometheus::Gauge& draining_;
};

}  // namespace choir
