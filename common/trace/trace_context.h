// W3C trace context (https://www.w3.org/TR/trace-context/, version 00): which trace a request
// belongs to, which span caused it, and whether spans of it are wanted. Pure values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace choir {

struct TraceContext {
  std::string trace_id;  // 32 lower-case hex digits; empty: there is no trace
  std::string span_id;   // 16
  bool sampled = false;

  bool operator==(const TraceContext&) const = default;
};

// No trace when the text is no traceparent: what is malformed is as if absent.
TraceContext ParseTraceParent(std::string_view text);
std::string FormatTraceParent(const TraceContext& context);  // "" without a trace
// For log lines and records.
std::string TraceIdOf(std::string_view trace_parent);

std::string MakeTraceId(uint64_t random, uint64_t more_random);
std::string MakeSpanId(uint64_t random);

// The same answer in every process for one trace: its id decides. `ratio` is from 0 to 1.
bool SampledByRatio(const std::string& trace_id, double ratio);

}  // namespace choir
