#include "router/membership/rank_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace choir {
namespace {

std::shared_ptr<const WorkerIdentity> Named(const std::string& name, const std::string& numerics) {
  WorkerIdentity identity;
  identity.worker_id = name;
  identity.numerics_id = numerics;
  return std::make_shared<const WorkerIdentity>(identity);
}

// Any changes in any order: the table is what one would make of the workers anew.
TEST(RankTable, IsAlwaysWhatTheWorkersAre) {
  std::mt19937_64 rng(11);
  std::vector<WorkerView> workers(40);
  RankTable table;
  for (size_t i = 0; i < workers.size(); ++i) {
    workers[i].index = WorkerIndex(static_cast<uint32_t>(i));
    workers[i].identity = Named("w" + std::to_string(i), "n");
  }
  for (int round = 0; round < 5000; ++round) {
    WorkerView& changed = workers[rng() % workers.size()];
    changed.phase = rng() % 3 == 0 ? WorkerPhase::kLost : WorkerPhase::kReady;
    changed.assigned_sequences = rng() % 5;
    if (rng() % 10 == 0)
      changed.identity = Named("x" + std::to_string(round), rng() % 2 ? "n" : "m");
    if (rng() % 20 == 0) {
      table.Remove(changed.index);
      changed.phase = WorkerPhase::kLost;
    }
    table.Update(changed);

    std::vector<const WorkerView*> serving;
    size_t of_n = 0;
    for (const WorkerView& worker : workers) {
      EXPECT_EQ(table.Find(worker.index) != nullptr, worker.Serves());
      if (!worker.Serves()) continue;
      serving.push_back(&worker);
      of_n += worker.identity->numerics_id == "n";
    }
    ASSERT_EQ(table.size(), serving.size());
    EXPECT_EQ(table.CountOf("n"), of_n);
    EXPECT_EQ(table.CountOf(""), serving.size());
    std::vector<const WorkerView*> listed;
    for (size_t i = 0; i < table.size(); ++i) listed.push_back(&table.at(i));
    std::sort(listed.begin(), listed.end());
    EXPECT_EQ(listed, serving);
    std::sort(serving.begin(), serving.end(), [](const auto* a, const auto* b) {
      const uint64_t load_a = LoadOf(*a), load_b = LoadOf(*b);
      return load_a != load_b ? load_a < load_b : RankOrder(*a->identity, *b->identity);
    });
    std::vector<const WorkerView*> by_load;
    for (const auto& entry : table.by_load()) by_load.push_back(entry.worker);
    ASSERT_EQ(by_load, serving);
    EXPECT_EQ(table.least_load(), serving.empty() ? 0 : LoadOf(*serving[0]));
  }
}

TEST(RankTable, ANameHasOneHashWhereverItStands) {
  WorkerView a, b;
  a.index = WorkerIndex(0);
  b.index = WorkerIndex(1);
  a.phase = b.phase = WorkerPhase::kReady;
  a.identity = Named("g0r0", "n");
  b.identity = Named("g0r1", "n");
  RankTable one, other;
  one.Update(a);
  one.Update(b);
  other.Update(b);
  EXPECT_EQ(one.name_hash(1), other.name_hash(0));
  EXPECT_NE(one.name_hash(0), one.name_hash(1));
}

}  // namespace
}  // namespace choir
