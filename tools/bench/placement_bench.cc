// placement_bench: what the planner of expert placement reaches on skewed loads, and what a plan
// costs. 58 layers of 256 experts (DeepSeek-V3's); the load of the k-th busiest expert of a layer
// falls as k^-s, and which expert is how busy differs by layer. Seeded: prints the same, but for
// times.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "common/base/clock.h"
#include "worker/engine/placement_planner.h"

namespace choir {
namespace {

constexpr int32_t kLayers = 58, kExperts = 256;
constexpr int64_t kMovesMax = 64;  // as ExpertMover's

std::vector<uint64_t> SkewedLoads(double exponent) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> loads;
  for (int32_t l = 0; l < kLayers; ++l) {
    std::vector<uint64_t> layer;
    for (int32_t k = 1; k <= kExperts; ++k) {
      layer.push_back(static_cast<uint64_t>(1e6 * std::pow(k, -exponent)));
    }
    std::shuffle(layer.begin(), layer.end(), random);
    loads.insert(loads.end(), layer.begin(), layer.end());
  }
  return loads;
}

double MeanImbalance(const std::vector<ExpertPlacement>& layers,
                     const std::vector<uint64_t>& loads) {
  double sum = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    sum += RankImbalance(layers[l], std::span(loads).subspan(l * kExperts, kExperts));
  }
  return sum / static_cast<double>(layers.size());
}

void Measure(double exponent, int32_t ranks, int32_t redundant, bool cover) {
  const std::vector<uint64_t> loads = SkewedLoads(exponent);
  std::vector<ExpertPlacement> layers(kLayers, ExpertPlacement(kExperts, ranks));
  const double before = MeanImbalance(layers, loads);
  int64_t moves = 0;
  int plans = 0;
  double longest_ms = 0;
  while (true) {
    const MonoTime start = Clock::Real().Now();
    const PlannedPlacement plan = PlanPlacement({.current = layers,
                                                 .loads = loads,
                                                 .slots = ExpertSlots(kExperts, ranks, redundant),
                                                 .cover = cover,
                                                 .moves_max = kMovesMax});
    longest_ms = std::max(longest_ms, Seconds(Clock::Real().Now() - start) * 1e3);
    if (plan.moves == 0) break;
    layers = plan.layers;
    moves += plan.moves;
    ++plans;
  }
  std::printf("| %.1f | %d | %d%s | %.2f | %.2f | %d | %.0f | %.0f |\n", exponent, ranks, redundant,
              cover ? ", cover" : "", before, MeanImbalance(layers, loads), plans,
              static_cast<double>(moves) / ranks, longest_ms);
}

}  // namespace
}  // namespace choir

int main() {
  std::printf(
      "| s | ranks | redundant | imbalance before | after | plans | experts read by a rank ");
  std::printf("| longest plan, ms |\n|---|---|---|---|---|---|---|---|\n");
  for (const double exponent : {0.5, 1.0}) {
    for (const int32_t ranks : {8, 32}) {
      for (const int32_t redundant : {1, 2, 4}) choir::Measure(exponent, ranks, redundant, false);
    }
  }
  choir::Measure(1.0, 8, 32, true);
}
