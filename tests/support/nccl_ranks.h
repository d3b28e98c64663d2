// Ranks that are threads of the test, joined by a fake NCCL over the collectives of threads.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "tests/support/fake_nccl.h"
#include "worker/comm/local_collectives.h"
#include "worker/comm/nccl_collectives.h"

namespace choir {

inline std::vector<StatusOr<std::unique_ptr<Collectives>>> TryMakeNcclRanks(
    int num_ranks, uint64_t generation, const CollectivesOptions& options,
    Duration nccl_timeout = std::chrono::seconds(60)) {
  auto control = MakeLocalCollectives(num_ranks, generation, options);
  std::vector<StatusOr<std::unique_ptr<Collectives>>> ranks(static_cast<size_t>(num_ranks));
  std::vector<std::jthread> threads;
  for (size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] {
      ranks[r] = MakeNcclCollectives({.control = std::move(control[r]),
                                      .device = &FakeDevice(),
                                      .nccl = &FakeNccl(),
                                      .timeout = nccl_timeout});
    });
  }
  threads.clear();
  return ranks;
}

}  // namespace choir
