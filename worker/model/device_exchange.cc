#include "worker/model/device_exchange.h"

#include <span>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"

namespace choir {
namespace {

class DeviceExchange final : public ExpertExchange {
 public:
  DeviceExchange(Collectives* collectives, const ExchangeLimits& limits,
                 const DeviceExchangeParts& parts)
      : collectives_(collectives),
        limits_(limits),
        parts_(parts),
        room_(*parts.room),
        output_bytes_(static_cast<size_t>(limits.hidden) * sizeof(float)),
        plan_(collectives, limits) {}

  StatusOr<DispatchedRows> Dispatch(const ExpertPlacement& placement, TensorView x,
                                    TensorView expert_ids, DType payload) override {
    const MonoTime start = Clock::Real().Now();
    const int64_t tokens = CheckDispatch(limits_, x, expert_ids, payload);
    payload_ = payload;
    row_bytes_ = static_cast<size_t>(limits_.hidden) * SizeOf(payload);
    if (tokens > 0) parts_.device->Copy(room_.ids.data(), expert_ids.raw(), expert_ids.num_bytes());
    CHOIR_RETURN_IF_ERROR(Wait());
    const auto* ids = reinterpret_cast<const int32_t*>(room_.ids.data());
    CHOIR_RETURN_IF_ERROR(plan_.Begin(placement, tokens, ids));
    CHOIR_RETURN_IF_ERROR(ExchangeRows(x));
    CHOIR_RETURN_IF_ERROR(plan_.Order({room_.recv.data(), received_bytes_}, row_bytes_));
    DispatchedRows out{GroupRows(x), plan_.offsets(), plan_.experts()};
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return out;
  }

  Status Combine(TensorView expert_out, TensorView y) override {
    const MonoTime start = Clock::Real().Now();
    CheckCombine(limits_, plan_, expert_out, y);
    if (plan_.ranks() == 1) {
      // Pairs are in the order of their slots, and all of them are here.
      if (plan_.tokens() > 0) Gather(plan_.from(0).positions, expert_out, y);
      CHOIR_RETURN_IF_ERROR(collectives_->status());
    } else {
      CHOIR_RETURN_IF_ERROR(ReturnOutputs(expert_out, y));
    }
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }

  const ExchangeStats& stats() const override { return stats_; }

 private:
  TensorView Rows(const DeviceBuffer& in, DType dtype, int64_t first, size_t count) const {
    const size_t row = static_cast<size_t>(limits_.hidden) * SizeOf(dtype);
    CHOIR_CHECK((static_cast<size_t>(first) + count) * row <= in.size());
    return TensorView(static_cast<void*>(in.data() + static_cast<size_t>(first) * row), dtype,
                      {static_cast<int64_t>(count), limits_.hidden});
  }

  // After it all copies are done: the host's buffers and the index are free again.
  Status Wait() {
    index_used_ = 0;
    return parts_.device->Wait();
  }

  // to[i] = from[rows[i]], widened to f32: what an embedding does.
  void Gather(std::span<const int32_t> rows, const TensorView& from, const TensorView& to) {
    if (rows.empty()) return;
    const int32_t* index = room_.index.Put(rows, index_used_);
    index_used_ += rows.size_bytes();
    const auto count = static_cast<int64_t>(rows.size());
    const TensorView ids(static_cast<const void*>(index), DType::kI32, {count});
    parts_.kernels->Embedding({.ids = ids, .table = from, .y = to}, parts_.stream);
  }

  // to[slots[i]] = from[i], rounded to the dtype of `to`.
  void Scatter(const TensorView& from, const TensorView& to, std::span<const int64_t> slots) const {
    if (slots.empty()) return;
    const TensorView pool(to.raw(), to.dtype(), {to.dim(0), 1, to.dim(1)});
    parts_.kernels->StoreKv({.x = from, .kv = {pool}, .slots = slots}, parts_.stream);
  }

  // Rows that leave: gathered on the device in the order of the messages, rounded there.
  Status PackRows(const TensorView& x) {
    index_.clear();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      index_.insert(index_.end(), plan_.to(r).tokens.begin(), plan_.to(r).tokens.end());
    }
    const TensorView gathered = Rows(room_.gathered, DType::kF32, 0, index_.size());
    Gather(index_, x, gathered);
    const TensorView packed = Rows(room_.received, payload_, 0, index_.size());
    Scatter(gathered, packed, std::span(room_.in_turn).first(index_.size()));
    std::byte* to = room_.send.data();
    const auto* from = static_cast<const std::byte*>(packed.raw());
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      to = plan_.WritePairs(r, to);
      const size_t bytes = plan_.to(r).tokens.size() * row_bytes_;
      parts_.device->Copy(to, from, bytes);
      to += bytes;
      from += bytes;
    }
    return Wait();
  }

  Status ExchangeRows(const TensorView& x) {
    const ExchangePlan::Bytes& bytes = plan_.DispatchBytes(row_bytes_);
    received_bytes_ = bytes.recv_total;
    if (plan_.ranks() == 1) return absl::OkStatus();
    CheckRoom(bytes);
    CHOIR_RETURN_IF_ERROR(PackRows(x));
    stats_.dispatch_bytes += bytes.send_total;
    return collectives_->AllToAllV({room_.send.data(), bytes.send_total}, bytes.send,
                                   {room_.recv.data(), bytes.recv_total}, bytes.recv);
  }

  void CheckRoom(const ExchangePlan::Bytes& bytes) const {
    CHOIR_CHECK(bytes.send_total <= room_.send.size() && bytes.recv_total <= room_.recv.size());
  }

  // Own rows and those that came, in the order of their experts.
  TensorView GroupRows(const TensorView& x) {
    const auto count = static_cast<size_t>(plan_.received());
    const TensorView grouped = Rows(room_.grouped, payload_, 0, count);
    slots_.clear();
    index_.clear();
    const ExchangePlan::Incoming& own = plan_.from(plan_.self());
    for (const ExchangePlan::Pair& pair : own.pairs) {
      index_.push_back(plan_.to(plan_.self()).tokens[static_cast<size_t>(pair.row)]);
    }
    slots_.insert(slots_.end(), own.positions.begin(), own.positions.end());
    Gather(index_, x, Rows(room_.gathered, DType::kF32, 0, index_.size()));
    GatherReceived(static_cast<int64_t>(index_.size()));
    Scatter(Rows(room_.gathered, DType::kF32, 0, count), grouped, slots_);
    return grouped;
  }

  // Brings the rows of other ranks to the device and gathers them behind `first` own ones.
  void GatherReceived(int64_t first) {
    index_.clear();
    size_t rows = 0;
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      const ExchangePlan::Incoming& in = plan_.from(r);
      for (const ExchangePlan::Pair& pair : in.pairs) {
        index_.push_back(static_cast<int32_t>(rows) + pair.row);
      }
      slots_.insert(slots_.end(), in.positions.begin(), in.positions.end());
      const size_t bytes = plan_.counts_from(r).rows * row_bytes_;
      CHOIR_CHECK((rows * row_bytes_) + bytes <= room_.received.size());
      parts_.device->Copy(room_.received.data() + rows * row_bytes_,
                          room_.recv.data() + in.rows_begin, bytes);
      rows += plan_.counts_from(r).rows;
    }
    Gather(index_, Rows(room_.received, payload_, 0, rows),
           Rows(room_.gathered, DType::kF32, first, index_.size()));
  }

  Status ReturnOutputs(const TensorView& outputs, const TensorView& y) {
    const ExchangePlan::Bytes& bytes = plan_.CombineBytes(output_bytes_);
    CheckRoom(bytes);
    index_.clear();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      const std::vector<int32_t>& positions = plan_.from(r).positions;
      index_.insert(index_.end(), positions.begin(), positions.end());
    }
    const TensorView packed = Rows(room_.gathered, DType::kF32, 0, index_.size());
    Gather(index_, outputs, packed);
    parts_.device->Copy(room_.send.data(), packed.raw(), bytes.send_total);
    CHOIR_RETURN_IF_ERROR(Wait());
    stats_.combine_bytes += bytes.send_total;
    CHOIR_RETURN_IF_ERROR(collectives_->AllToAllV({room_.send.data(), bytes.send_total}, bytes.send,
                                                  {room_.recv.data(), bytes.recv_total},
                                                  bytes.recv));
    const std::vector<int32_t>& own = plan_.from(plan_.self()).positions;
    slots_ = plan_.to(plan_.self()).slots;
    Gather(own, outputs, Rows(room_.gathered, DType::kF32, 0, own.size()));
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      slots_.insert(slots_.end(), plan_.to(r).slots.begin(), plan_.to(r).slots.end());
    }
    const TensorView all = Rows(room_.gathered, DType::kF32, 0, slots_.size());
    parts_.device->Copy(static_cast<std::byte*>(all.raw()) + own.size() * output_bytes_,
                        room_.recv.data(), bytes.recv_total);
    if (plan_.tokens() > 0) Scatter(all, y, slots_);
    return absl::OkStatus();
  }

  Collectives* const collectives_;
  const ExchangeLimits limits_;
  const DeviceExchangeParts parts_;
  const ExchangeRoom& room_;
  const size_t output_bytes_;
  ExchangePlan plan_;
  DType payload_ = DType::kF32;
  size_t row_bytes_ = 0;
  size_t received_bytes_ = 0;
  size_t index_used_ = 0;  // bytes of room_.index that a copy may still read
  std::vector<int32_t> index_;
  std::vector<int64_t> slots_;
  ExchangeStats stats_;
};

}  // namespace

std::unique_ptr<ExpertExchange> MakeDeviceExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits,
                                                   const DeviceExchangeParts& parts) {
  return std::make_unique<DeviceExchange>(collectives, limits, parts);
}

}  // namespace choir
