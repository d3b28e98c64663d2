#include "worker/model/device_exchange.h"

#include <span>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "worker/model/row_mover.h"

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
        plan_(collectives, limits),
        mover_(parts) {}

  Status BeginDispatch(const ExpertPlacement& placement, TensorView x, TensorView expert_ids,
                       DType payload) override {
    const MonoTime start = Clock::Real().Now();
    const int64_t tokens = CheckDispatch(limits_, x, expert_ids, payload);
    payload_ = payload;
    width_ = WidthOf(limits_, x);
    row_bytes_ = static_cast<size_t>(width_) * SizeOf(payload);
    if (tokens > 0) parts_.device->Copy(room_.ids.data(), expert_ids.raw(), expert_ids.num_bytes());
    CHOIR_RETURN_IF_ERROR(mover_.Wait());
    const auto* ids = reinterpret_cast<const int32_t*>(room_.ids.data());
    CHOIR_RETURN_IF_ERROR(plan_.Begin(placement, tokens, ids));
    CHOIR_RETURN_IF_ERROR(ExchangeRows(x));
    CHOIR_RETURN_IF_ERROR(plan_.Order({room_.recv.data(), received_bytes_}, row_bytes_));
    grouped_ = GroupRows(x);
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }
  StatusOr<DispatchedRows> EndDispatch() override {
    return DispatchedRows{grouped_, plan_.offsets(), plan_.experts()};
  }

  Status BeginCombine(TensorView expert_out, TensorView y) override {
    const MonoTime start = Clock::Real().Now();
    CheckCombine(limits_, plan_, expert_out, y);
    if (plan_.ranks() == 1) {
      // Pairs are in the order of their slots, and all of them are here.
      if (plan_.tokens() > 0) mover_.Gather(plan_.from(0).positions, expert_out, y);
      CHOIR_RETURN_IF_ERROR(collectives_->status());
    } else {
      CHOIR_RETURN_IF_ERROR(ReturnOutputs(expert_out, y));
    }
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }
  Status EndCombine() override { return absl::OkStatus(); }

  const ExchangeStats& stats() const override { return stats_; }

 private:
  // Rows that leave: gathered on the device in the order of the messages, rounded there.
  Status PackRows(const TensorView& x) {
    index_.clear();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      index_.insert(index_.end(), plan_.to(r).tokens.begin(), plan_.to(r).tokens.end());
    }
    const TensorView gathered =
        RowMover::Rows(room_.gathered, DType::kF32, width_, 0, index_.size());
    mover_.Gather(index_, x, gathered);
    const TensorView packed = RowMover::Rows(room_.received, payload_, width_, 0, index_.size());
    mover_.Round(gathered, packed);
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
    return mover_.Wait();
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
    const TensorView grouped = RowMover::Rows(room_.grouped, payload_, width_, 0, count);
    slots_.clear();
    index_.clear();
    const ExchangePlan::Incoming& own = plan_.from(plan_.self());
    for (const ExchangePlan::Pair& pair : own.pairs) {
      index_.push_back(plan_.to(plan_.self()).tokens[static_cast<size_t>(pair.row)]);
    }
    slots_.insert(slots_.end(), own.positions.begin(), own.positions.end());
    mover_.Gather(index_, x, RowMover::Rows(room_.gathered, DType::kF32, width_, 0, index_.size()));
    GatherReceived(static_cast<int64_t>(index_.size()));
    mover_.Scatter(RowMover::Rows(room_.gathered, DType::kF32, width_, 0, count), grouped, slots_);
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
    mover_.Gather(index_, RowMover::Rows(room_.received, payload_, width_, 0, rows),
                  RowMover::Rows(room_.gathered, DType::kF32, width_, first, index_.size()));
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
    const TensorView packed =
        RowMover::Rows(room_.gathered, DType::kF32, limits_.hidden, 0, index_.size());
    mover_.Gather(index_, outputs, packed);
    parts_.device->Copy(room_.send.data(), packed.raw(), bytes.send_total);
    CHOIR_RETURN_IF_ERROR(mover_.Wait());
    stats_.combine_bytes += bytes.send_total;
    CHOIR_RETURN_IF_ERROR(collectives_->AllToAllV({room_.send.data(), bytes.send_total}, bytes.send,
                                                  {room_.recv.data(), bytes.recv_total},
                                                  bytes.recv));
    const std::vector<int32_t>& own = plan_.from(plan_.self()).positions;
    slots_ = plan_.to(plan_.self()).slots;
    mover_.Gather(own, outputs,
                  RowMover::Rows(room_.gathered, DType::kF32, limits_.hidden, 0, own.size()));
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      slots_.insert(slots_.end(), plan_.to(r).slots.begin(), plan_.to(r).slots.end());
    }
    const TensorView all =
        RowMover::Rows(room_.gathered, DType::kF32, limits_.hidden, 0, slots_.size());
    parts_.device->Copy(static_cast<std::byte*>(all.raw()) + own.size() * output_bytes_,
                        room_.recv.data(), bytes.recv_total);
    if (plan_.tokens() > 0) mover_.Scatter(all, y, slots_);
    return absl::OkStatus();
  }

  Collectives* const collectives_;
  const ExchangeLimits limits_;
  const DeviceExchangeParts parts_;
  const ExchangeRoom& room_;
  const size_t output_bytes_;
  ExchangePlan plan_;
  RowMover mover_;
  DType payload_ = DType::kF32;
  int64_t width_ = 0;  // columns of the rows of a dispatch
  size_t row_bytes_ = 0;
  size_t received_bytes_ = 0;
  TensorView grouped_;
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
