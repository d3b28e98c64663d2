// From rows of logits to tokens, with the very bits of worker/engine/sampler.h: integer weights,
// one Philox draw by (seed, choice, position). Penalties, biases and log probabilities are the
// host's.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/staged.h"

namespace choir {

// One row's parameters; meanings and limits as SamplingParams of worker/engine/types.h.
struct SampleRow {
  double temperature = 1.0;  // 0: the best value, ties to the lower id
  double top_p = 1.0;
  double min_p = 0.0;
  uint64_t seed = 0;
  uint64_t position = 0;
  uint32_t choice = 0;
  int32_t top_k = 0;  // <= 0: off
};

struct SampleArgs {
  TensorView logits;       // [T, V] f32
  Staged<SampleRow> rows;  // [T]
  TensorView ids;          // [T] i32
  int64_t Flops() const { return 40 * logits.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(logits.num_bytes()); }
};

}  // namespace choir
