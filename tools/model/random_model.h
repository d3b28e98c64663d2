// Seeded random models: published layout, tokenizer and template, any shape of the supported
// families. Same request, same bytes, on every machine. Weights are scaled so that activations stay
// near one at any depth and logits are not flat. Blocking; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "tools/model/random_config.h"

namespace choir {

struct RandomModelOptions {
  RandomConfigRequest config;
  std::string out;
  uint64_t seed = 1;
  uint64_t shard_bytes = uint64_t{4}
                         << 30;  // a weight file's tensors hold at most this, or one tensor
  std::function<void(std::string_view line)> note;
};

// The directory appears whole or not at all; one that exists and is not empty is refused.
Status MakeRandomModel(const RandomModelOptions& options);

}  // namespace choir
