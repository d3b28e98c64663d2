#include "common/trace/trace_context.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContext, ReadsAndWritesTheSpecificationsExample) {
  const TraceContext context = ParseTraceParent(kParent);
  EXPECT_EQ(context.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(context.span_id, "00f067aa0ba902b7");
  EXPECT_TRUE(context.sampled);
  EXPECT_EQ(FormatTraceParent(context), kParent);
  EXPECT_FALSE(ParseTraceParent(std::string(kParent).replace(54, 1, "0")).sampled);
}

TEST(TraceContext, TakesWhatIsMalformedForAbsent) {
  for (const char* text : {
           "",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
       }) {
    EXPECT_EQ(ParseTraceParent(text), TraceContext{}) << text;
  }
}

TEST(TraceContext, ReadsWhatItKnowsOfALaterVersion) {
  EXPECT_EQ(TraceIdOf("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-then"),
            "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(TraceIdOf("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what"), "");
}

TEST(TraceContext, MakesIdsThatAreNone) {
  EXPECT_EQ(MakeTraceId(0, 0), "00000000000000000000000000000001");
  EXPECT_EQ(MakeSpanId(0), "0000000000000001");
}

TEST(TraceContext, SamplesTheShareThatIsAskedFor) {
  int sampled = 0;
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
  for (uint64_t i = 0; i < 10'000; ++i) sampled += SampledByRatio(MakeTraceId(i, i * kStep), 0.1);
  EXPECT_NEAR(sampled, 1000, 100);
  EXPECT_FALSE(SampledByRatio(MakeTraceId(1, 0), 0));
  EXPECT_TRUE(SampledByRatio(MakeTraceId(1, ~uint64_t{0}), 1));
}

}  // namespace
}  // namespace choir
