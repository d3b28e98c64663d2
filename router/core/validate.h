// The ranges of everything a client may set (contract: proto/choir/v1/inference.proto). Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/core/api.h"

namespace choir {

inline constexpr uint32_t kChoicesMax = 128;
inline constexpr size_t kStopsMax = 16;
inline constexpr size_t kStopBytesMax = 4096;
inline constexpr size_t kStopTokensMax = 256;
inline constexpr size_t kLogitBiasMax = 4096;
inline constexpr uint32_t kLogprobsMax = 20;
inline constexpr size_t kEchoBytesMax = size_t{1} << 20;  // of all choices

// The first field that is out of its range; the error names field and range.
std::optional<ApiError> ValidateRequest(const RequestInput& input, int32_t vocab_size);

// What absent fields mean for one model.
struct SamplingDefaults {
  uint32_t max_tokens = 512;
  double temperature = 1;
  double top_p = 1;
  int32_t top_k = -1;
  std::vector<int32_t> eos_token_ids;
};

// `seed` is what the router drew; it is used when the client gave none.
SequenceSampling CompleteSampling(const SamplingInput& input, const SamplingDefaults& defaults,
                                  uint64_t seed);

}  // namespace choir
