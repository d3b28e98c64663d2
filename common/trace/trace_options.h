// The options of tracing, the same in every part.
#pragma once

#include <string>

#include "common/config/options.h"

namespace choir {

struct TraceOptions {
  std::string endpoint;  // host:port of a collector's OTLP over gRPC; empty: nothing is recorded
  double ratio = 0.01;
  int64_t queue_max = 8192;                         // spans that wait for the collector
  Duration timeout = std::chrono::seconds(5);       // for it to take a group of them
  Duration last_timeout = std::chrono::seconds(1);  // the last one, as the process ends
};

void AddTraceOptions(OptionSet* set, TraceOptions* options);

}  // namespace choir
