#include "common/trace/trace_options.h"

namespace choir {

void AddTraceOptions(OptionSet* set, TraceOptions* options) {
  set->Add(
      &options->endpoint,
      {.key = "trace.endpoint",
       .flag = "--trace-endpoint",
       .help = "host:port of an OpenTelemetry collector (OTLP, gRPC, plain); empty: no spans"});
  set->Add(&options->ratio,
           {.key = "trace.ratio",
            .flag = "--trace-ratio",
            .help = "share of the traces that begin here; of others the caller decides"},
           0, 1);
  set->Add(
      &options->queue_max,
      {.key = "trace.queue_max", .help = "spans that wait for the collector; more are dropped"}, 1,
      1'000'000);
  set->AddDuration(&options->timeout,
                   {.key = "trace.timeout", .help = "for the collector to take a group of spans"},
                   std::chrono::milliseconds(10), std::chrono::minutes(1));
  set->AddCheck([options]() -> Status {
    const std::string& endpoint = options->endpoint;
    const size_t colon = endpoint.rfind(':');
    const bool place = colon != std::string::npos && colon > 0 &&
                       endpoint.find_first_of("/ ") == std::string::npos &&
                       ParseInteger(endpoint.substr(colon + 1), 1, 65535).ok();
    if (endpoint.empty() || place) return absl::OkStatus();
    return InvalidArgument(
        "--trace-endpoint: '{}' must be host:port with a port from 1 to 65535, such as "
        "127.0.0.1:4317",
        endpoint);
  });
}

}  // namespace choir
