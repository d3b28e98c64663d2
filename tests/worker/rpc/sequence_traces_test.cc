#include "worker/rpc/sequence_traces.h"

#include <gtest/gtest.h>

#include "common/base/log.h"
#include "tests/support/sim_clock.h"

namespace choir {
namespace {

constexpr char kAsked[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

class Kept final : public SpanSink {
 public:
  void End(Span span) override { spans.push_back(std::move(span)); }
  std::vector<Span> spans;
};

class SequenceTracesTest : public ::testing::Test {
 protected:
  v1::SubmitSequence Submit(const std::string& trace_parent) {
    v1::SubmitSequence submit;
    submit.set_trace_parent(trace_parent);
    submit.set_request_id("req-1");
    for (int i = 0; i < 7; ++i) submit.add_token_ids(i);
    submit.set_num_prompt_tokens(5);
    return submit;
  }
  const SpanValue* Attribute(const Span& span, const std::string& name) {
    for (const SpanAttribute& a : span.attributes) {
      if (a.name == name) return &a.value;
    }
    return nullptr;
  }
  SimClock clock;
  Kept kept;
  uint64_t next = 0;
  Tracer tracer{&kept, 0, &clock, [this] { return next += 0x9e3779b97f4a7c15; }};
  SequenceTraces traces{&tracer, &clock, "g1r0"};
};

TEST_F(SequenceTracesTest, ASpanSaysWhatWasComputedAndWhen) {
  const SequenceId id(1);
  traces.Begin(id, Submit(kAsked), 3, "tiny");
  clock.Advance(std::chrono::milliseconds(20));
  traces.OnUpdate({.id = id, .tokens = {4}, .cached_tokens = 2});
  clock.Advance(std::chrono::milliseconds(5));
  traces.OnUpdate({.id = id, .tokens = {5, 6}, .finish = Finish::kLength});
  ASSERT_EQ(kept.spans.size(), 1u);
  const Span& span = kept.spans[0];
  EXPECT_EQ(span.parent, "00f067aa0ba902b7");
  EXPECT_EQ(span.end_ns - span.start_ns, 25'000'000);
  EXPECT_EQ(std::get<int64_t>(*Attribute(span, "gen_ai.usage.input_tokens")), 5);
  EXPECT_EQ(std::get<int64_t>(*Attribute(span, "gen_ai.usage.cache_read.input_tokens")), 2);
  EXPECT_EQ(std::get<int64_t>(*Attribute(span, "gen_ai.usage.output_tokens")), 3);
  EXPECT_EQ(std::get<int64_t>(*Attribute(span, "choir.replayed_tokens")), 2);
  EXPECT_DOUBLE_EQ(std::get<double>(*Attribute(span, "gen_ai.server.time_to_first_token")), 0.02);
  EXPECT_EQ(traces.size(), 0u);
}

TEST_F(SequenceTracesTest, NothingIsKeptOfWhatNobodyAskedFor) {
  ASSERT_TRUE(InitLog("test", "info").ok());
  traces.Begin(SequenceId(1), Submit(""), 3, "tiny");
  traces.Begin(SequenceId(2), Submit(std::string(kAsked).replace(54, 1, "0")), 3, "tiny");
  EXPECT_EQ(traces.size(), 0u);
  traces.OnUpdate({.id = SequenceId(1), .finish = Finish::kStop});
  EXPECT_TRUE(kept.spans.empty());
}

TEST_F(SequenceTracesTest, AnEndFromOutsideEndsIt) {
  const SequenceId id(1);
  traces.Begin(id, Submit(kAsked), 3, "tiny");
  traces.End(id, Finish::kLost);
  traces.OnUpdate({.id = id, .finish = Finish::kCancelled});
  ASSERT_EQ(kept.spans.size(), 1u);
  EXPECT_EQ(Attribute(kept.spans[0], "gen_ai.server.time_to_first_token"), nullptr);
}

}  // namespace
}  // namespace choir
