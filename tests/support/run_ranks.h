// Runs one function per rank, each on its own thread, and waits for all of them.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "worker/comm/collectives.h"

namespace choir {

inline void RunRanks(std::vector<std::unique_ptr<Collectives>>& ranks,
                     const std::function<void(Collectives&)>& fn) {
  std::vector<std::jthread> threads;
  for (auto& rank : ranks) threads.emplace_back([&fn, &rank] { fn(*rank); });
}

}  // namespace choir
