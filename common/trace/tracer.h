// Spans: what a process did for a request, when, and as part of what. Off unless there is a sink.
// Spans carry no content of prompts or answers. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "common/trace/trace_context.h"

namespace choir {

using SpanValue = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;
struct SpanAttribute {
  std::string name;
  SpanValue value;
};

enum class SpanKind { kInternal, kServer, kClient };

struct Span {
  TraceContext context;  // span_id: its own
  std::string parent;    // span id; empty: the trace begins here
  std::string name;      // of few values
  SpanKind kind = SpanKind::kInternal;
  int64_t start_ns = 0;  // since 1970
  int64_t end_ns = 0;
  std::vector<SpanAttribute> attributes;
  std::vector<std::pair<std::string, int64_t>> events;  // name, time
  std::string error;                                    // empty: it went well
};

// Takes what has ended; must not block.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  virtual void End(Span span) = 0;
};

// One span while it lasts.
struct OpenSpan {
  TraceContext parent;  // without span_id: the trace begins here
  std::string span_id;  // empty: it is not recorded
  MonoTime began{};

  bool recorded() const { return !span_id.empty(); }
};

class Tracer {
 public:
  // `sink` null: nothing is recorded, traces are only passed on; else it outlives this. `ratio` is
  // the share of traces that are recorded of those that begin here; of others their caller decides.
  // `random` gives uniform 64 bits on any thread.
  Tracer(SpanSink* sink, double ratio, const Clock* clock, std::function<uint64_t()> random);

  // A span for what `trace_parent` asks for, in its trace or, when it names none, in a new one.
  OpenSpan Begin(const std::string& trace_parent) const;
  OpenSpan BeginChild(const OpenSpan& of) const;
  // What goes along to whom this span asks for something.
  std::string TraceParent(const OpenSpan& span) const;
  // Records the span: fills in ids, start and end. Nothing when it is not recorded.
  void End(const OpenSpan& open, Span span) const;
  // Unix nanoseconds of a moment of the clock.
  int64_t WallNs(MonoTime when) const;

 private:
  SpanSink* const sink_;
  const double ratio_;
  const Clock* const clock_;
  const std::function<uint64_t()> random_;
};

}  // namespace choir
