// What the metrics say of the experts of one rank: how many tokens went to which part of each
// layer's experts, and how unevenly. Made from the model's counts every so many steps, small enough
// to be published: the largest models have 60 layers of 256 experts. Owner thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/model/model.h"

namespace choir {

inline constexpr int32_t kExpertBucketsMax = 8;  // of a layer: ranges of neighbouring experts

struct ExpertLoad {
  std::vector<int32_t> layers;   // with experts, by their index in the model
  int32_t buckets = 0;           // of each layer: expert e is in bucket e * buckets / experts
  std::vector<uint64_t> tokens;  // [layers, buckets], since the engine was made
  std::vector<bool> here;        // [layers, buckets]: has experts of this rank, or had
  // Tokens of a layer's busiest expert of this rank over the mean of this rank's experts, averaged
  // over the layers; of a recent window with enough tokens to mean something. 0: not known yet.
  double imbalance = 0;
};

class ExpertLoadMeter {
 public:
  ExpertLoad Read(const ExpertCounts& counts, const PlacedExperts& placed);

 private:
  void Measure(const ExpertCounts& counts, const PlacedExperts& placed);

  std::vector<uint64_t> window_;  // the counts at its begin
  bool measured_ = false;         // a whole window
  double imbalance_ = 0;
};

}  // namespace choir
