#include "common/trace/tracer.h"

namespace choir {

Tracer::Tracer(SpanSink* sink, double ratio, const Clock* clock, std::function<uint64_t()> random)
    : sink_(sink), ratio_(ratio), clock_(clock), random_(std::move(random)) {}

OpenSpan Tracer::Begin(const std::string& trace_parent) const {
  OpenSpan span{.parent = ParseTraceParent(trace_parent), .span_id = {}, .began = clock_->Now()};
  if (span.parent.trace_id.empty()) {
    const uint64_t first = random_();
    span.parent.trace_id = MakeTraceId(first, random_());
    span.parent.sampled = sink_ != nullptr && SampledByRatio(span.parent.trace_id, ratio_);
  }
  if (sink_ != nullptr && span.parent.sampled) span.span_id = MakeSpanId(random_());
  return span;
}

OpenSpan Tracer::BeginChild(const OpenSpan& of) const {
  OpenSpan span{.parent = of.parent, .span_id = {}, .began = clock_->Now()};
  if (!of.recorded()) return span;
  span.parent.span_id = of.span_id;
  span.span_id = MakeSpanId(random_());
  return span;
}

std::string Tracer::TraceParent(const OpenSpan& span) const {
  TraceContext context = span.parent;
  if (span.recorded()) context.span_id = span.span_id;
  // A trace that began here, of which nothing is recorded, still has a parent by its form.
  if (context.span_id.empty()) context.span_id = MakeSpanId(random_());
  return FormatTraceParent(context);
}

void Tracer::End(const OpenSpan& open, Span span) const {
  if (!open.recorded() || sink_ == nullptr) return;
  span.context = {open.parent.trace_id, open.span_id, true};
  span.parent = open.parent.span_id;
  span.start_ns = WallNs(open.began);
  span.end_ns = WallNs(clock_->Now());
  sink_->End(std::move(span));
}

int64_t Tracer::WallNs(MonoTime when) const {
  const int64_t now = clock_->Wall().time_since_epoch().count();
  return now - std::chrono::duration_cast<std::chrono::nanoseconds>(clock_->Now() - when).count();
}

}  // namespace choir
