// Ranks as processes: forked, waited for in bounded time, killed when they take longer, and what
// they told. The caller has one thread and has touched no device, for CUDA does not outlive a fork.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/clock.h"

namespace choir::gpu {

struct RankEnd {
  int code = 0;       // exit code; -signal when it was killed
  bool hung = false;  // it was killed by us, at the limit
  std::string told;   // what it wrote to `out`
};

// fn runs in the child; what it returns is its exit code. It may write to the file `out`.
using RankFn = std::function<int(int rank, const std::vector<int64_t>& pids, int out)>;
std::vector<RankEnd> RunRankProcesses(int num_ranks, Duration limit, const RankFn& fn);

}  // namespace choir::gpu
