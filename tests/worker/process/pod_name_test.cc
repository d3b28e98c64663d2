#include "worker/pod_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "worker/config.h"

namespace choir {
namespace {

TEST(PodName, SaysGroupRankAndLeader) {
  const auto place = PlaceOfPod("my-choir-worker-5.my-choir-worker.prod.svc", 2);
  ASSERT_TRUE(place.ok()) << MessageOf(place.status());
  EXPECT_EQ(place->group, 2);
  EXPECT_EQ(place->rank, 1);
  EXPECT_EQ(place->leader, "my-choir-worker-4.my-choir-worker.prod.svc");
}

TEST(PodName, OfGroupsOfOneEveryPodLeads) {
  const auto place = PlaceOfPod("w-11.w", 1);
  ASSERT_TRUE(place.ok());
  EXPECT_EQ(place->group, 11);
  EXPECT_EQ(place->rank, 0);
  EXPECT_EQ(place->leader, "w-11.w");
}

TEST(PodName, WhatIsNoneIsRefused) {
  for (const char* pod : {"", "worker", "worker-1", "worker-.w", "worker-x.w", "worker-1x.w",
                          "-1.w", "worker-1.", ".w", "worker-99999999999999999999.w"}) {
    EXPECT_THAT(MessageOf(PlaceOfPod(pod, 2).status()), testing::HasSubstr("--pod")) << pod;
  }
}

std::optional<int> Read(std::vector<const char*> flags, WorkerConfig* config) {
  flags.insert(flags.begin(), {"choir-worker", "--model", "m", "--insecure"});
  return ReadWorkerConfig(static_cast<int>(flags.size()), flags.data(), config);
}

TEST(PodName, TheConfigurationFollowsIt) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--pod", "w-3.w", "--ranks", "2", "--listen", "0.0.0.0:7200"}, &c), std::nullopt);
  EXPECT_EQ(c.group, 1);
  EXPECT_EQ(c.rank, 1);
  EXPECT_EQ(c.leader, "w-2.w:7200");
}

TEST(PodName, TheConfigurationSaysOnePlaceOnly) {
  WorkerConfig c;
  EXPECT_EQ(Read({"--pod", "w-3.w", "--ranks", "2", "--rank", "1"}, &c), 2);
  WorkerConfig d;
  EXPECT_EQ(Read({"--pod", "w-3.w", "--ranks", "2", "--leader", "h:1"}, &d), 2);
}

}  // namespace
}  // namespace choir
