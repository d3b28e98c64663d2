#include "router/admission/fair_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <vector>

namespace choir {
namespace {

using Entry = FairQueue::Entry;

class FairQueueTest : public testing::Test {
 protected:
  Entry* Add(const std::string& tenant, uint64_t work, double weight = 1) {
    Entry& entry = entries_.emplace_back();
    names_[&entry] = tenant;
    queue_.Add(&entry, tenant, weight, work);
    return &entry;
  }
  // The tenant that is next, which starts.
  std::string Next() {
    Entry* const entry = queue_.front();
    started_.push_back(entry);
    queue_.Pop();
    return names_.at(entry);
  }
  std::string NextAll() {
    std::string all;
    while (queue_.front() != nullptr) all += Next();
    return all;
  }

  FairQueue queue_;
  std::deque<Entry> entries_;  // keep their places
  std::map<const Entry*, std::string> names_;
  std::vector<Entry*> started_;
};

TEST_F(FairQueueTest, OneTenantsRequestsKeepTheirOrder) {
  const Entry* const first = Add("a", 5);
  const Entry* const second = Add("a", 1);
  EXPECT_EQ(queue_.front(), first);
  queue_.Pop();
  EXPECT_EQ(queue_.front(), second);
  queue_.Pop();
  EXPECT_EQ(queue_.front(), nullptr);
}

TEST_F(FairQueueTest, AFloodOfOneTenantDoesNotHoldUpAnother) {
  for (int i = 0; i < 100; ++i) Add("f", 10);
  Next();
  Add("b", 10);
  EXPECT_EQ(Next(), "b");
}

TEST_F(FairQueueTest, SharesAreOfWorkNotOfRequests) {
  for (int i = 0; i < 4; ++i) Add("l", 100);
  for (int i = 0; i < 40; ++i) Add("s", 10);
  std::map<std::string, int> count;
  for (int i = 0; i < 22; ++i) ++count[Next()];
  EXPECT_EQ(count["l"], 2);
  EXPECT_EQ(count["s"], 20);
}

TEST_F(FairQueueTest, WeightsAreParts) {
  for (int i = 0; i < 40; ++i) Add("x", 10, 3), Add("y", 10, 1);
  std::map<std::string, int> count;
  for (int i = 0; i < 40; ++i) ++count[Next()];
  EXPECT_EQ(count["x"], 30);
  EXPECT_EQ(count["y"], 10);
}

TEST_F(FairQueueTest, WhoUsedLessThanAnnouncedGetsTheRestBack) {
  for (int i = 0; i < 10; ++i) Add("m", 100), Add("n", 100);
  EXPECT_EQ(Next(), "m");
  queue_.Settle(started_[0], 10);
  EXPECT_EQ(Next(), "n");
  EXPECT_EQ(Next(), "m");
  queue_.Settle(started_[2], 10);
  EXPECT_EQ(Next(), "m");  // 20 used, and n has been charged 100
}

TEST_F(FairQueueTest, WhoCameBackNeitherSavedUpNorOwes) {
  for (int i = 0; i < 10; ++i) Add("a", 10);
  for (int i = 0; i < 9; ++i) Next();
  Add("b", 10);  // was not here while a got 90
  Add("b", 10);
  Add("b", 10);
  Add("a", 10);
  EXPECT_EQ(NextAll(), "babab") << "b gets no more than every other turn";
}

TEST_F(FairQueueTest, AnIdleTenantIsRememberedWhileItIsAhead) {
  Add("big", 1000);
  Add("a", 10);
  EXPECT_EQ(Next(), "big");
  queue_.Settle(started_[0], 1000);
  for (int i = 0; i < 20; ++i) Add("a", 10);
  Add("big", 1000);
  for (int i = 0; i < 21; ++i) EXPECT_EQ(Next(), "a") << i;
  EXPECT_EQ(Next(), "big");
}

TEST_F(FairQueueTest, WhatLeavesTheQueueIsNotCharged) {
  Entry* const gone = Add("a", 1000);
  Add("b", 10);
  Add("a", 10);
  queue_.Remove(gone);
  EXPECT_EQ(queue_.waiting_work(), 20u);
  EXPECT_EQ(queue_.size(), 2u);
  EXPECT_EQ(NextAll(), "ab");
}

TEST_F(FairQueueTest, WhatStartsWithoutHavingWaitedIsCharged) {
  Entry resumed;
  queue_.Start(&resumed, "a", 1, 50);
  for (int i = 0; i < 5; ++i) Add("a", 10), Add("b", 10);
  EXPECT_EQ(NextAll(), "bbbbbaaaaa");
  queue_.Settle(&resumed, 50);
}

TEST_F(FairQueueTest, SaysHowMuchIsBeforeWhoComesNow) {
  EXPECT_EQ(queue_.WorkBefore("a", 1), 0);
  for (int i = 0; i < 10; ++i) Add("a", 10);
  EXPECT_EQ(queue_.WorkBefore("a", 1), 100);
  EXPECT_EQ(queue_.WorkBefore("b", 1), 0);  // it would be next
  Add("b", 10);
  EXPECT_EQ(queue_.WorkBefore("b", 1), 20);  // its own, and as much of a's
  EXPECT_EQ(queue_.WorkBefore("a", 1), 110);
}

TEST_F(FairQueueTest, SaysHowManyStartBeforeWhoComesNow) {
  std::mt19937 rng(3);
  const double weights[] = {1, 2, 0.5, 3};
  for (int round = 0; round < 300; ++round) {
    for (uint32_t i = 0, n = rng() % 12; i < n; ++i) {
      const size_t t = rng() % 4;
      Add(std::string(1, static_cast<char>('a' + t)), 1 + rng() % 50, weights[t]);
    }
    for (uint32_t i = 0, n = rng() % 6; i < n && queue_.front() != nullptr; ++i) Next();
    const size_t t = rng() % 4;
    const std::string tenant(1, static_cast<char>('a' + t));
    const size_t before = queue_.CountBefore(tenant, weights[t]);
    Entry* const added = Add(tenant, 1 + rng() % 50, weights[t]);
    for (size_t i = 0; i < before; ++i) {
      ASSERT_NE(queue_.front(), added) << round;
      Next();
    }
    ASSERT_EQ(queue_.front(), added) << round;
    if (round % 3 == 0) {  // so that it begins anew with nobody
      NextAll();
      for (Entry* const entry : started_) queue_.Settle(entry, entry->work);
      started_.clear();
    }
  }
}

TEST_F(FairQueueTest, ForgetsTenantsThatHaveNothingHere) {
  for (int i = 0; i < 20'000; ++i) {
    Entry entry;
    queue_.Add(&entry, std::to_string(i), 1, 10);
    queue_.Pop();
    queue_.Settle(&entry, 10);
  }
  EXPECT_LE(queue_.known_tenants(), FairQueue::kAheadMax + 1);
}

// Whatever comes, starts, is settled or leaves: of two tenants that wait all the time, neither is
// ahead by more than a request of each, by weight.
TEST_F(FairQueueTest, NoTenantGetsAheadOfAnotherByMoreThanARequestOfEach) {
  constexpr uint64_t kWorkMax = 1000;
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    std::mt19937 rng(seed);
    FairQueue queue;
    std::deque<Entry> entries;
    std::map<const Entry*, size_t> owner;
    const std::vector<double> weights = {1, 1, 2, 5};
    std::vector<double> got(weights.size(), 0);
    const auto add = [&](size_t tenant) {
      Entry& entry = entries.emplace_back();
      owner[&entry] = tenant;
      queue.Add(&entry, std::to_string(tenant), weights[tenant], 1 + rng() % kWorkMax);
    };
    for (size_t t = 0; t < weights.size(); ++t) add(t), add(t);
    for (int turn = 0; turn < 2000; ++turn) {
      Entry* const entry = queue.front();
      const size_t tenant = owner.at(entry);
      add(tenant);  // so that it always waits
      queue.Pop();
      const uint64_t used = rng() % (entry->work + 1);
      const double weight = weights[tenant];
      queue.Settle(entry, used);
      got[tenant] += static_cast<double>(used) / weight;
      for (size_t a = 0; a < weights.size(); ++a) {
        for (size_t b = 0; b < weights.size(); ++b) {
          ASSERT_LE(got[a] - got[b], kWorkMax / weights[a] + kWorkMax / weights[b])
              << "seed " << seed << " turn " << turn;
        }
      }
    }
  }
}

// The same sums as a list that is counted anew each time.
TEST_F(FairQueueTest, KeepsItsSumsWhateverHappens) {
  std::mt19937 rng(7);
  std::vector<Entry*> waiting, running;
  for (int i = 0; i < 20'000; ++i) {
    const uint32_t what = rng() % 4;
    if (what == 0) {
      waiting.push_back(Add(std::string(1, static_cast<char>('a' + rng() % 8)), rng() % 50));
    } else if (what == 1 && queue_.front() != nullptr) {
      Entry* const entry = queue_.front();
      queue_.Pop();
      std::erase(waiting, entry);
      running.push_back(entry);
    } else if (what == 2 && !waiting.empty()) {
      const size_t which = rng() % waiting.size();
      queue_.Remove(waiting[which]);
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(which));
    } else if (what == 3 && !running.empty()) {
      queue_.Settle(running.back(), rng() % 50);
      running.pop_back();
    }
    uint64_t waits = 0, runs = 0;
    for (const Entry* entry : waiting) waits += entry->work;
    for (const Entry* entry : running) runs += entry->work;
    ASSERT_EQ(queue_.waiting_work(), waits);
    ASSERT_EQ(queue_.started_work(), runs);
    ASSERT_EQ(queue_.size(), waiting.size());
    ASSERT_EQ(queue_.front() == nullptr, waiting.empty());
  }
}

}  // namespace
}  // namespace choir
