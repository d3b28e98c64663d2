// Tracing of one process: its tracer and, when a collector is named, where the spans go. Owned by
// the composition root; outlives all that traces.
#pragma once

#include <memory>
#include <string>

#include "common/rpc/otlp_exporter.h"

namespace choir {

class Tracing {
 public:
  // `part` is "router"; `instance` says which of them.
  Tracing(const TraceOptions& options, const std::string& part, const std::string& instance,
          Metrics* metrics);

  const Tracer* tracer() const { return &tracer_; }

 private:
  const std::unique_ptr<OtlpExporter> exporter_;  // null: nothing is recorded
  const Tracer tracer_;
};

}  // namespace choir
