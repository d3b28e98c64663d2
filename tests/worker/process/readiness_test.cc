#include "worker/readiness.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using namespace std::chrono_literals;

WorkerFacts Serving() {
  WorkerFacts facts;
  facts.loading.clear();
  facts.group = {.serving = true, .epoch = 7};
  facts.self_test = SelfTest::kPassed;
  return facts;
}

TEST(Readiness, IsReadyWhenLoadedServingAndTested) {
  const WorkerStatus status = StatusOf(Serving());
  EXPECT_TRUE(status.ready);
  EXPECT_FALSE(status.draining);
  EXPECT_EQ(status.epoch, 7u);
  EXPECT_EQ(status.reason, "");
}

TEST(Readiness, SaysWhatIsMissing) {
  EXPECT_EQ(StatusOf({}).reason, "loading the model");
  WorkerFacts facts = Serving();
  facts.group = {.serving = false, .reason = "waiting for ranks 1 3"};
  EXPECT_FALSE(StatusOf(facts).ready);
  EXPECT_EQ(StatusOf(facts).reason, "waiting for ranks 1 3");
  facts = Serving();
  facts.self_test = SelfTest::kPending;
  EXPECT_EQ(StatusOf(facts).reason, "the self-test runs");
  facts.self_test = SelfTest::kFailed;
  facts.self_test_error = "nan";
  EXPECT_EQ(StatusOf(facts).reason, "the self-test failed: nan");
  EXPECT_FALSE(StatusOf(facts).ready);
}

TEST(Readiness, AWorkerThatLoadsAgainStillSaysWhyItFailed) {
  WorkerFacts facts{.loading = "loading 1 of 9 MiB", .failed_before = "m: is missing"};
  EXPECT_EQ(StatusOf(facts).reason, "loading 1 of 9 MiB; the try before this one: m: is missing");
  facts = Serving();
  facts.failed_before = "m: is missing";
  EXPECT_TRUE(StatusOf(facts).ready);
}

TEST(Readiness, AFailedDeviceComesBeforeEverythingElse) {
  WorkerFacts facts = Serving();
  facts.device_error = "cuda:0: an illegal memory access was encountered";
  facts.draining = true;
  EXPECT_FALSE(StatusOf(facts).ready);
  EXPECT_EQ(StatusOf(facts).reason,
            "the device failed: cuda:0: an illegal memory access was encountered");
}

TEST(Readiness, DrainsByOrderAndWithItsGroup) {
  WorkerFacts facts = Serving();
  facts.draining = true;
  EXPECT_TRUE(StatusOf(facts).draining);
  EXPECT_EQ(StatusOf(facts).reason, "draining");
  facts = Serving();
  facts.group.group_drain = DrainStage::kRunning;
  EXPECT_TRUE(StatusOf(facts).draining);
  EXPECT_TRUE(StatusOf(facts).ready) << "what runs goes on";
}

TEST(ProgressWatch, FailsOnlyWhenWorkMakesNoProgress) {
  const auto at = [](Duration d) { return MonoTime(1h) + d; };
  ProgressWatch watch(10s);
  EXPECT_TRUE(watch.Observe(0, 0, true, at(0s)).ok());
  EXPECT_TRUE(watch.Observe(0, 0, true, at(100s)).ok()) << "idle";
  EXPECT_TRUE(watch.Observe(0, 2, true, at(200s)).ok()) << "work came just now";
  EXPECT_TRUE(watch.Observe(0, 2, true, at(210s)).ok());
  const Status stuck = watch.Observe(0, 2, true, at(211s));
  EXPECT_EQ(stuck.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(watch.Observe(1, 2, true, at(212s)).ok());
  EXPECT_TRUE(watch.Observe(1, 2, false, at(300s)).ok()) << "no epoch, no steps";
}

}  // namespace
}  // namespace choir
