#include "worker/engine/expert_load.h"

#include <algorithm>

#include "common/base/check.h"

namespace choir {
namespace {

// Tokens an expert has on average in a window; with fewer, chance alone looks like imbalance.
constexpr uint64_t kWindowTokens = 64;

}  // namespace

ExpertLoad ExpertLoadMeter::Read(const ExpertCounts& counts, const PlacedExperts& placed) {
  ExpertLoad load;
  if (counts.layers.empty()) return load;
  CHOIR_CHECK(placed.layers.size() == counts.layers.size());
  const auto experts = static_cast<size_t>(counts.num_experts);
  const auto buckets = std::min(experts, static_cast<size_t>(kExpertBucketsMax));
  load.layers = counts.layers;
  load.buckets = static_cast<int32_t>(buckets);
  load.tokens.resize(counts.layers.size() * buckets);
  for (size_t i = 0; i < counts.rows.size(); ++i) {
    load.tokens[i / experts * buckets + i % experts * buckets / experts] += counts.rows[i];
  }
  for (const uint64_t tokens : load.tokens) load.here.push_back(tokens > 0);
  for (size_t l = 0; l < placed.layers.size(); ++l) {
    for (const int32_t e : placed.layers[l].ExpertsOf(placed.rank)) {
      load.here[l * buckets + static_cast<size_t>(e) * buckets / experts] = true;
    }
  }
  Measure(counts, placed);
  load.imbalance = imbalance_;
  return load;
}

void ExpertLoadMeter::Measure(const ExpertCounts& counts, const PlacedExperts& placed) {
  window_.resize(counts.rows.size());
  const auto experts = static_cast<size_t>(counts.num_experts);
  uint64_t all = 0, wanted = 0;
  double ratios = 0;
  int64_t layers = 0;
  for (size_t l = 0; l < counts.layers.size(); ++l) {
    const std::vector<int32_t>& own = placed.layers[l].ExpertsOf(placed.rank);
    uint64_t sum = 0, most = 0;
    for (const int32_t e : own) {
      const size_t i = l * experts + static_cast<size_t>(e);
      const uint64_t rows = counts.rows[i] - window_[i];
      sum += rows;
      most = std::max(most, rows);
    }
    all += sum;
    wanted += kWindowTokens * own.size();
    if (sum == 0) continue;
    ratios +=
        static_cast<double>(most) * static_cast<double>(own.size()) / static_cast<double>(sum);
    ++layers;
  }
  const bool whole = all >= wanted;
  if (layers == 0 || (measured_ && !whole)) return;
  imbalance_ = ratios / static_cast<double>(layers);
  if (!whole) return;
  measured_ = true;
  window_ = counts.rows;
}

}  // namespace choir
