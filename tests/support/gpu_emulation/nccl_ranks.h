// Ranks that are threads of the test, each with an emulated card, joined by a fake NCCL over the
// collectives of threads.
#pragma once

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/fake_nccl.h"
#include "worker/comm/local_collectives.h"
#include "worker/comm/nccl_collectives.h"

namespace choir {

using NcclRanks = std::vector<std::unique_ptr<Collectives>>;

// Each rank's answer; ranks that did not connect are as they were.
inline std::vector<Status> ConnectNcclRanks(NcclRanks* ranks, NcclParts parts = {}) {
  parts.device = &emulation::EmulatedDevices();
  parts.nccl = &FakeNccl();
  std::vector<Status> answers(ranks->size());
  std::vector<std::jthread> threads;
  for (size_t r = 0; r < ranks->size(); ++r) {
    threads.emplace_back([&, parts, r]() mutable {
      parts.card = static_cast<int32_t>(r);
      answers[r] = ConnectNccl(parts, &(*ranks)[r]);
    });
  }
  return answers;
}

inline NcclRanks MakeNcclRanks(int num_ranks, uint64_t generation = 1,
                               const NcclParts& parts = {}) {
  NcclRanks ranks = MakeLocalCollectives(num_ranks, generation, {});
  for (const Status& answer : ConnectNcclRanks(&ranks, parts)) {
    if (!answer.ok()) internal::CheckFailed(__FILE__, __LINE__, MessageOf(answer).c_str());
  }
  return ranks;
}

}  // namespace choir
