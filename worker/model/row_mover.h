// Rows between places of a device, by kernels: an embedding gathers rows,
// storing KV scatters and rounds them. What the kernels need for that goes to the device from
// pinned memory: a copy from pageable memory may wait for the stream, where nobody would look at
// the ranks that it waits for. Private to the exchanges of worker/model; owner thread only.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>

#include "common/base/check.h"
#include "kernels/kernels.h"
#include "worker/device/device.h"
#include "worker/model/exchange_maker.h"

namespace choir {

class RowMover {
 public:
  explicit RowMover(const DeviceExchangeParts& parts) : parts_(parts) {
    const StagedBuffer& in_turn = parts.room->in_turn;
    auto* first = reinterpret_cast<int64_t*>(in_turn.host());
    std::iota(first, first + in_turn.bytes() / sizeof(int64_t), int64_t{0});
    in_turn.Upload(0, in_turn.bytes());
  }
  // Copies that are under way read the room, which may go away next.
  ~RowMover() { (void)parts_.device->Wait(); }
  RowMover(const RowMover&) = delete;
  RowMover& operator=(const RowMover&) = delete;

  // Rows [first, first + count) of a buffer of rows of `width` columns.
  static TensorView Rows(const DeviceBuffer& in, DType dtype, int64_t width, int64_t first,
                         size_t count) {
    const size_t row = static_cast<size_t>(width) * SizeOf(dtype);
    CHOIR_CHECK((static_cast<size_t>(first) + count) * row <= in.size());
    return TensorView(static_cast<void*>(in.data() + static_cast<size_t>(first) * row), dtype,
                      {static_cast<int64_t>(count), width});
  }

  // After it all copies are done: the host's buffers, the index and the slots are free again.
  Status Wait() {
    index_used_ = slots_used_ = 0;
    return parts_.device->Wait();
  }

  // to[i] = from[rows[i]], widened to f32.
  void Gather(std::span<const int32_t> rows, const TensorView& from, const TensorView& to) {
    if (rows.empty()) return;
    const int32_t* index = parts_.room->index.Put(rows, index_used_);
    index_used_ += rows.size_bytes();
    const auto count = static_cast<int64_t>(rows.size());
    const TensorView ids(static_cast<const void*>(index), DType::kI32, {count});
    parts_.kernels->Embedding({.ids = ids, .table = from, .y = to}, parts_.stream);
  }

  // to[slots[i]] = from[i], rounded to the dtype of `to`.
  void Scatter(const TensorView& from, const TensorView& to, std::span<const int64_t> slots) {
    if (slots.empty()) return;
    const int64_t* there = parts_.room->slots.Put(slots, slots_used_);
    slots_used_ += slots.size_bytes();
    Store(from, to, {nullptr, slots.size(), there});
  }
  // The same, in turn.
  void Round(const TensorView& from, const TensorView& to) const {
    const StagedBuffer& in_turn = parts_.room->in_turn;
    const auto count = static_cast<size_t>(from.dim(0));
    CHOIR_CHECK(count * sizeof(int64_t) <= in_turn.bytes());
    if (count == 0) return;
    Store(from, to, {nullptr, count, reinterpret_cast<const int64_t*>(in_turn.device())});
  }

 private:
  void Store(const TensorView& from, const TensorView& to, const Staged<int64_t>& slots) const {
    const TensorView pool(to.raw(), to.dtype(), {to.dim(0), 1, to.dim(1)});
    parts_.kernels->StoreKv({.x = from, .kv = {pool}, .slots = slots}, parts_.stream);
  }

  const DeviceExchangeParts parts_;
  size_t index_used_ = 0, slots_used_ = 0;  // bytes of the room's that a copy may still read
};

}  // namespace choir
