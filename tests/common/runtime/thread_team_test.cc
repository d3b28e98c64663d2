#include "common/runtime/thread_team.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <time.h>

#include <numeric>

#include "common/runtime/bounded_queue.h"

namespace choir {
namespace {

TEST(ThreadTeamTest, EveryThreadRunsOnceForEachCall) {
  for (const int size : {1, 2, 5}) {
    ThreadTeam team(size);
    for (int round = 0; round < 1000; ++round) {
      std::vector<int> calls(static_cast<size_t>(size), 0);
      team.Run([&](int t) { ++calls[static_cast<size_t>(t)]; });
      for (const int c : calls) ASSERT_EQ(c, 1);
    }
  }
}

TEST(ThreadTeamTest, ForCoversEveryItemOnce) {
  ThreadTeam team(4);
  for (const int64_t count : {0, 1, 3, 4, 7, 100, 1001}) {
    for (const int64_t grain : {1, 2, 50, 5000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      team.For(count, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const auto& h : hits) ASSERT_EQ(h.load(), 1) << count << " " << grain;
    }
  }
}

TEST(ThreadTeamTest, WaitingHelpersSleepInsteadOfSpinning) {
  ThreadTeam team(3);
  team.Run([](int) {});
  const auto cpu = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double before = cpu();
  BoundedQueue<int> never(1);
  (void)never.WaitDrain(std::chrono::milliseconds(200));  // wall time passes, nobody has work
  EXPECT_LT(cpu() - before, 0.1);
}

TEST(BoundedQueueTest, RefusesWhenFullAndAfterClose) {
  BoundedQueue<int> q(2);
  EXPECT_TRUE(q.TryPush(1));
  EXPECT_TRUE(q.TryPush(2));
  EXPECT_FALSE(q.TryPush(3));
  EXPECT_EQ(q.DrainAll(), (std::vector<int>{1, 2}));
  EXPECT_TRUE(q.TryPush(4));
  q.Close();
  EXPECT_FALSE(q.TryPush(5));
  EXPECT_EQ(q.WaitDrain(std::chrono::seconds(100)), (std::vector<int>{4}));
  EXPECT_TRUE(q.WaitDrain(std::chrono::seconds(100)).empty());  // closed: does not wait
}

TEST(BoundedQueueTest, WakeEndsAWaitThatComesLater) {
  BoundedQueue<int> q(1);
  q.Wake();
  EXPECT_TRUE(q.WaitDrain(std::chrono::seconds(100)).empty());
}

}  // namespace
}  // namespace choir
