// Steps of few rows that go between the devices of ranks in equal slots: how many rows may, and
// what room that takes. Pure.
#pragma once

#include <algorithm>
#include <array>
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
// Where a step's choices and rows lie in the room for slots: own choices, behind them own rows;
// those of all ranks by rank likewise.
struct SlotPart {
  std::byte* own = nullptr;
  size_t bytes = 0;  // of one rank
  std::byte* all = nullptr;
  DeviceSlot post() const { return {.own = own, .bytes = bytes, .all = all}; }
};
struct SlotParts {
  SlotPart ids, rows;
  std::array<DeviceSlot, 2> posts() const { return {ids.post(), rows.post()}; }
  size_t bytes() const { return ids.bytes + rows.bytes; }  // of one rank
};
inline SlotParts SlotPartsIn(const DeviceSlotRoom& room, int64_t num_ranks, size_t ids_bytes,
                             size_t row_bytes) {
  const size_t all_ids = ids_bytes * static_cast<size_t>(num_ranks);
  return {.ids = {.own = room.own, .bytes = ids_bytes, .all = room.all},
          .rows = {.own = room.own + AlignedSlot(ids_bytes),
                   .bytes = row_bytes,
                   .all = room.all + AlignedSlot(all_ids)}};
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
