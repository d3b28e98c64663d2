#include "worker/engine/expert_load.h"

#include <algorithm>

namespace choir {
namespace {

// Tokens an expert has on average in a window; with fewer, chance alone looks like imbalance.
constexpr uint64_t kWindowTokens = 64;

}  // namespace

ExpertLoad ExpertLoadMeter::Read(const ExpertCounts& counts) {
  ExpertLoad load;
  if (counts.num_here == 0) return load;
  const auto experts = static_cast<size_t>(counts.num_experts);
  const auto buckets = std::min(experts, static_cast<size_t>(kExpertBucketsMax));
  const auto bucket_of = [&](size_t expert) { return expert * buckets / experts; };
  const auto first = static_cast<size_t>(counts.first_here);
  const size_t end = first + static_cast<size_t>(counts.num_here);
  load.layers = counts.layers;
  load.buckets = static_cast<int32_t>(buckets);
  load.first_bucket = static_cast<int32_t>(bucket_of(first));
  load.last_bucket = static_cast<int32_t>(bucket_of(end - 1));
  load.tokens.resize(counts.layers.size() * buckets);
  for (size_t l = 0; l < counts.layers.size(); ++l) {
    for (size_t e = first; e < end; ++e) {
      load.tokens[l * buckets + bucket_of(e)] += counts.rows[l * experts + e];
    }
  }
  Measure(counts);
  load.imbalance = imbalance_;
  return load;
}

void ExpertLoadMeter::Measure(const ExpertCounts& counts) {
  window_.resize(counts.rows.size());
  const auto experts = static_cast<size_t>(counts.num_experts);
  const auto first = static_cast<size_t>(counts.first_here);
  const size_t end = first + static_cast<size_t>(counts.num_here);
  uint64_t all = 0;
  double ratios = 0;
  int64_t layers = 0;
  for (size_t l = 0; l < counts.layers.size(); ++l) {
    uint64_t sum = 0, most = 0;
    for (size_t i = l * experts + first; i < l * experts + end; ++i) {
      const uint64_t rows = counts.rows[i] - window_[i];
      sum += rows;
      most = std::max(most, rows);
    }
    all += sum;
    if (sum == 0) continue;
    ratios += static_cast<double>(most) * counts.num_here / static_cast<double>(sum);
    ++layers;
  }
  const bool whole = all >= kWindowTokens * counts.layers.size() * (end - first);
  if (layers == 0 || (measured_ && !whole)) return;
  imbalance_ = ratios / static_cast<double>(layers);
  if (!whole) return;
  measured_ = true;
  window_ = counts.rows;
}

}  // namespace choir
