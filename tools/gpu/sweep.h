// Shapes that no test lists: drawn by seed, every op, each table against the plainest one on the
// card. Bits where the op promises them, else within the bound that rounding allows; the same bits
// in two runs over different left-overs; and a row by itself as in its batch where that is
// promised. A case is seed and op: `choir-gpu-check sweep --seed N --cases 1` plays case N again.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "tools/gpu/sweep_cases.h"

namespace choir::gpu {

struct SweepOptions {
  uint64_t seed = 1;  // of the first case
  int64_t cases_max = 1'000'000;
  MonoTime deadline = MonoTime::max();
  std::string op;                 // only this one; empty: all in turn, by seed
  std::vector<std::string> skip;  // but these: the others keep their seeds
  SweepSizes sizes;
  // Hears what is known at most every second, for the next case may break the card.
  std::function<void(const nlohmann::ordered_json&)> progress;
};

// {"seed", "cases", "compared", "failures": [...], "lines": [...]}; "compared": cases in which a
// table had a function of its own.
nlohmann::ordered_json Sweep(const std::vector<const cuda::KernelTable*>& tables, Card& card,
                             const SweepOptions& options);

}  // namespace choir::gpu
