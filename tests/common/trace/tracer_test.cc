#include "common/trace/tracer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/sim_clock.h"

namespace choir {
namespace {

constexpr char kAsked[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr char kUnasked[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

class Kept final : public SpanSink {
 public:
  void End(Span span) override { spans.push_back(std::move(span)); }
  std::vector<Span> spans;
};

class TracerTest : public ::testing::Test {
 protected:
  Tracer Make(SpanSink* sink, double ratio) {
    return {sink, ratio, &clock, [this] { return next += 0x9e3779b97f4a7c15; }};
  }
  SimClock clock;
  uint64_t next = 0;
  Kept kept;
};

TEST_F(TracerTest, SpansOfOneTraceNameTheirParents) {
  const Tracer tracer = Make(&kept, 0);
  const OpenSpan request = tracer.Begin(kAsked);
  const OpenSpan part = tracer.BeginChild(request);
  tracer.End(part, {.name = "part"});
  tracer.End(request, {.name = "request", .error = "lost"});
  ASSERT_EQ(kept.spans.size(), 2u);
  EXPECT_EQ(kept.spans[0].parent, request.span_id);
  EXPECT_EQ(kept.spans[0].context.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(kept.spans[1].parent, "00f067aa0ba902b7");
  EXPECT_NE(kept.spans[0].context.span_id, kept.spans[1].context.span_id);
  EXPECT_EQ(ParseTraceParent(tracer.TraceParent(part)).span_id, part.span_id);
}

TEST_F(TracerTest, TimesAreThoseOfTheSpan) {
  const Tracer tracer = Make(&kept, 0);
  const int64_t began = clock.Wall().time_since_epoch().count();
  const OpenSpan span = tracer.Begin(kAsked);
  clock.Advance(std::chrono::milliseconds(7));
  tracer.End(span, {});
  EXPECT_EQ(kept.spans[0].start_ns, began);
  EXPECT_EQ(kept.spans[0].end_ns - kept.spans[0].start_ns, 7'000'000);
}

TEST_F(TracerTest, WhoAsksDecidesAndWithoutThatTheRatio) {
  const Tracer always = Make(&kept, 1), never = Make(&kept, 0);
  EXPECT_FALSE(always.Begin(kUnasked).recorded());
  EXPECT_TRUE(never.Begin(kAsked).recorded());
  EXPECT_TRUE(always.Begin("").recorded());
  EXPECT_FALSE(never.Begin("no traceparent").recorded());
}

TEST_F(TracerTest, WithoutASinkItPassesOnWhatItWasGivenAndNamesWhatHasNoName) {
  const Tracer tracer = Make(nullptr, 1);
  const OpenSpan span = tracer.Begin(kAsked);
  EXPECT_FALSE(span.recorded());
  EXPECT_EQ(tracer.TraceParent(span), kAsked);
  EXPECT_EQ(tracer.TraceParent(tracer.BeginChild(span)), kAsked);
  const TraceContext made = ParseTraceParent(tracer.TraceParent(tracer.Begin("")));
  EXPECT_EQ(made.trace_id.size(), 32u);
  EXPECT_FALSE(made.sampled);
}

}  // namespace
}  // namespace choir
