#include "common/trace/trace_options.h"

#include <gtest/gtest.h>

#include <vector>

namespace choir {
namespace {

std::optional<int> Read(std::vector<const char*> argv, TraceOptions* options) {
  OptionSet set("choir-test", "For tests.", "router");
  AddTraceOptions(&set, options);
  argv.insert(argv.begin(), "choir-test");
  return set.Parse(static_cast<int>(argv.size()), argv.data());
}

TEST(TraceOptions, NothingIsRecordedUnlessACollectorIsNamed) {
  TraceOptions options;
  EXPECT_EQ(Read({}, &options), std::nullopt);
  EXPECT_EQ(options.endpoint, "");
  EXPECT_EQ(Read({"--trace-endpoint", "collector:4317", "--trace-ratio", "1"}, &options),
            std::nullopt);
  EXPECT_EQ(options.endpoint, "collector:4317");
  EXPECT_EQ(options.ratio, 1);
}

TEST(TraceOptions, RefusesWhatIsNoAddressAndNoShare) {
  TraceOptions options;
  for (const char* endpoint : {"collector", "http://collector", "http://collector:4317", ":4317",
                               "collector:", "a:b", "a:0", "a:65536", "a:4317 "}) {
    EXPECT_EQ(Read({"--trace-endpoint", endpoint}, &options), 2) << endpoint;
  }
  EXPECT_EQ(Read({"--trace-endpoint", "a:1", "--trace-ratio", "1.5"}, &options), 2);
  EXPECT_EQ(Read({"--trace-endpoint", "a:1", "--trace-ratio", "-0.1"}, &options), 2);
}

}  // namespace
}  // namespace choir
