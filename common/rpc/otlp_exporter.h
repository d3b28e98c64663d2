// Sends spans to an OpenTelemetry collector (OTLP over gRPC), in groups, from a thread of its own.
// A collector that is slow or gone costs spans, which are counted (choir_trace_spans_total), and
// nothing else. Owned by the process's composition root. End: any thread, takes microseconds.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/metrics/metrics.h"
#include "common/trace/trace_options.h"
#include "common/trace/tracer.h"

namespace grpc {
class ClientContext;
}

namespace choir {

class OtlpExporter final : public SpanSink {
 public:
  struct Service {
    std::string name;      // "choir-router"
    std::string instance;  // which of them
  };
  // Null when the options name no collector.
  static std::unique_ptr<OtlpExporter> Make(const TraceOptions& options, Service service,
                                            Metrics* metrics);
  ~OtlpExporter() override;  // sends what waits, for at most last_timeout

  void End(Span span) override;

 private:
  OtlpExporter(const TraceOptions& options, Service service, Metrics* metrics);
  void Run();
  // False: the collector did not answer.
  bool Send(std::vector<Span> batch, Duration timeout);

  struct Stub;
  const TraceOptions options_;
  const Service service_;
  const std::unique_ptr<Stub> stub_;
  prometheus::Counter& exported_;
  prometheus::Counter& dropped_;
  bool failing_ = false;  // the thread's

  std::mutex mu_;  // guards all below
  std::condition_variable wake_;
  std::vector<Span> queue_;
  bool stopping_ = false;
  grpc::ClientContext* sending_ = nullptr;
  std::thread thread_;  // last: uses what is above
};

}  // namespace choir
