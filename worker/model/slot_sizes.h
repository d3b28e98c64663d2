// Steps of few rows that go between the devices of ranks in equal slots: how many rows may, and
// what room that takes. Pure.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "worker/comm/device_collectives.h"

namespace choir {

// The same on all ranks.
struct SlotOptions {
  int64_t rows = 0;  // rows go in slots where no rank has more in a step; 0: never
  // Their outputs return in equal parts where a rank has no more of them in a layer; 0: never.
  uint64_t output_bytes = 0;
};

// What a rank sends for one step of a layer.
struct SlotShape {
  int64_t num_ranks = 1;
  int64_t top_k = 0;
  int64_t hidden = 0;
};

constexpr size_t AlignedSlot(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Of a rank's slot with `rows` rows of f32 behind their choices.
constexpr size_t SlotBytes(int64_t rows, const SlotShape& shape) {
  return AlignedSlot(static_cast<size_t>(rows * shape.top_k) * sizeof(int32_t)) +
         AlignedSlot(static_cast<size_t>(rows * shape.hidden) * sizeof(float));
}
// Of what a rank has for one other when `rows` rows of each are computed: an output a choice.
constexpr size_t OutputBytes(int64_t rows, const SlotShape& shape) {
  return static_cast<size_t>(rows * shape.top_k * shape.hidden) * sizeof(float);
}

// Rows of a rank's step up to which outputs return in equal parts: no more than go in slots.
constexpr int64_t OutputRows(const SlotOptions& options, const SlotShape& shape) {
  const size_t of_row = OutputBytes(shape.num_ranks, shape);
  if (of_row == 0 || shape.num_ranks == 1) return 0;
  return std::min(options.rows, static_cast<int64_t>(options.output_bytes / of_row));
}

constexpr DeviceSlotSizes SlotSizesOf(const SlotOptions& options, const SlotShape& shape) {
  return {.slot = SlotBytes(options.rows, shape),
          .outputs = OutputBytes(OutputRows(options, shape), shape)};
}

}  // namespace choir
