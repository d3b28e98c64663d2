// What a load run will ask, as a value: made from a seed, so the same load can be run again. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

// Lengths drawn evenly from [min, max].
struct LengthRange {
  int64_t min = 0;
  int64_t max = 0;
};
// "512" or "128..1024"; each from 1 to `limit`.
StatusOr<LengthRange> ReadLengthRange(const std::string& text, int64_t limit);

enum class Arrival : uint8_t {
  kClosed,    // a stream asks again as soon as its answer has ended
  kConstant,  // at even distances
  kPoisson,   // at exponentially distributed distances
};

struct LoadShape {
  int64_t requests = 64;
  Arrival arrival = Arrival::kClosed;
  double rate = 1;  // requests a second; not of kClosed
  LengthRange prompt{512, 512};
  LengthRange output{64, 64};
  int64_t shared_prefix = 0;  // tokens at the start of every prompt that are the same
  uint64_t seed = 1;
};

struct PlannedRequest {
  double at_seconds = 0;  // when it is due, from the start; 0 for kClosed
  std::vector<int32_t> prompt;
  int64_t output = 0;
};

// Prompts are token ids that every byte-level vocabulary has, and no special ones.
std::vector<PlannedRequest> PlanLoad(const LoadShape& shape);

}  // namespace choir
