#include "worker/model/step_graphs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace choir {
namespace {

// Says what was asked of it; its graphs are what was enqueued between Begin and End.
class RecordingDevice final : public Device {
 public:
  std::string Name() const override { return "fake"; }
  bool ReadsHostMemory() const override { return false; }
  Status Reserve(size_t) override { return {}; }
  StatusOr<DeviceBuffer> Allocate(size_t) override { return Unimplemented("no memory"); }
  StatusOr<DeviceBuffer> AllocateHost(size_t) override { return Unimplemented("no memory"); }
  void Copy(void*, const void*, size_t) override {}
  bool HasGraphs() const override { return has_graphs; }
  Status BeginGraph() override {
    if (fail_begin) return Unavailable("no begin");
    recording = true;
    return {};
  }
  StatusOr<DeviceGraph> EndGraph() override {
    recording = false;
    if (fail_end) return Unavailable("no end");
    return DeviceGraph(std::make_shared<int>(++made));
  }
  void RunGraph(const DeviceGraph& graph) override {
    done.push_back("graph " + std::to_string(*static_cast<int*>(graph.get())));
  }
  std::function<Status()> Work() {
    return [this]() -> Status {
      if (!recording) done.push_back("work");
      return {};
    };
  }

  bool has_graphs = true, fail_begin = false, fail_end = false, recording = false;
  int made = 0;
  std::vector<std::string> done;
};

using Done = std::vector<std::string>;

TEST(StepGraphs, BucketsAreFewAndHoldWhatTheyAreFor) {
  RecordingDevice device;
  const StepGraphs graphs(&device, 20, 100);
  const std::vector<int64_t> want = {0,  1,  2,  4,  4,  8,  8,  8,  8,  16, 16, 16,
                                     16, 16, 16, 16, 16, 20, 20, 20, 20, 0,  0};
  for (size_t rows = 0; rows < want.size(); ++rows) {
    EXPECT_EQ(graphs.BucketOf(static_cast<int64_t>(rows), 7).rows, want[rows]) << rows;
  }
  const StepGraphs large(&device, 300, 100);
  for (const auto& [rows, bucket] : std::vector<std::pair<int64_t, int64_t>>{
           {25, 32}, {33, 48}, {49, 64}, {65, 96}, {129, 192}, {193, 256}, {257, 300}, {301, 0}}) {
    EXPECT_EQ(large.BucketOf(rows, 7).rows, bucket) << rows;
  }
}

TEST(StepGraphs, LengthsGoFourfoldUpToTheLongest) {
  RecordingDevice device;
  const StepGraphs graphs(&device, 8, 100'000);
  const auto keys = [&](int64_t longest) { return graphs.BucketOf(1, longest).keys; };
  EXPECT_EQ(keys(1), 4096);
  EXPECT_EQ(keys(4096), 4096);
  EXPECT_EQ(keys(4097), 16384);
  EXPECT_EQ(keys(70'000), 100'000);
}

TEST(StepGraphs, NoneAreForADeviceWithoutThemOrWhenTheyAreOff) {
  RecordingDevice device;
  EXPECT_EQ(StepGraphs(&device, 0, 9).BucketOf(1, 1).rows, 0);
  EXPECT_EQ(StepGraphs().BucketOf(1, 1).rows, 0);
  device.has_graphs = false;
  EXPECT_EQ(StepGraphs(&device, 8, 9).BucketOf(1, 1).rows, 0);
}

TEST(StepGraphs, TheSecondStepOfABucketIsRecordedAndLaterOnesAreItsGraph) {
  RecordingDevice device;
  StepGraphs graphs(&device, 8, 9);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(graphs.Run({4, 9}, {}, device.Work()).ok());
  ASSERT_TRUE(graphs.Run({8, 9}, {}, device.Work()).ok());
  ASSERT_TRUE(graphs.Run({4, 9}, {}, device.Work()).ok());
  EXPECT_EQ(device.done, (Done{"work", "graph 1", "graph 1", "work", "graph 1"}));
  EXPECT_EQ(graphs.stats().captures, 1u);
  EXPECT_EQ(graphs.stats().replays, 3u);
}

TEST(StepGraphs, OtherMemoryMeansOtherGraphs) {
  RecordingDevice device;
  StepGraphs graphs(&device, 8, 9);
  const GraphMemory first{.experts = 1}, second{.experts = 2};
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(graphs.Run({2, 9}, first, device.Work()).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(graphs.Run({2, 9}, second, device.Work()).ok());
  EXPECT_EQ(device.done, (Done{"work", "graph 1", "work", "graph 2"}));
}

TEST(StepGraphs, AStepThatCannotBeRecordedRunsAndNoOtherIsTried) {
  for (const bool begin : {true, false}) {
    RecordingDevice device;
    device.fail_begin = begin;
    device.fail_end = !begin;
    StepGraphs graphs(&device, 8, 9);
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(graphs.Run({2, 9}, {}, device.Work()).ok());
    EXPECT_EQ(device.done, (Done{"work", "work"}));
    EXPECT_EQ(graphs.BucketOf(2, 1).rows, 0);
    EXPECT_EQ(graphs.stats().captures, 0u);
  }
}

}  // namespace
}  // namespace choir
