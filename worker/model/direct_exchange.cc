#include "worker/model/direct_exchange.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "worker/comm/device_collectives.h"
#include "worker/model/guarded_link.h"
#include "worker/model/row_mover.h"
#include "worker/model/slot_exchange.h"
#include "worker/model/slot_sizes.h"

namespace choir {
namespace {

class DirectExchange : public ExpertExchange {
 public:
  // stats: what it counts into; null: its own.
  DirectExchange(Collectives* collectives, const ExchangeLimits& limits,
                 const DeviceExchangeParts& parts, ExchangeStats* stats = nullptr)
      : link_(*collectives->device()),
        limits_(limits),
        shape_{collectives->size(), limits.top_k, limits.hidden},
        collectives_(collectives),
        parts_(parts),
        room_(*parts.room),
        plan_(collectives, limits),
        mover_(parts),
        send_bytes_(plan_.ranks()),
        recv_bytes_(plan_.ranks()),
        stats_(stats == nullptr ? own_stats_ : *stats) {}

  void BeginStep(std::span<const int64_t> tokens) override {
    step_tokens_.assign(tokens.begin(), tokens.end());
  }

  Status BeginDispatch(const ExpertPlacement& placement, TensorView x, TensorView expert_ids,
                       DType payload) override {
    const MonoTime start = Clock::Real().Now();
    (void)CheckDispatch(limits_, x, expert_ids, payload);
    payload_ = payload;
    width_ = WidthOf(limits_, x);
    in_slots_ = SlotRows() > 0;
    if (in_slots_) {
      CHOIR_RETURN_IF_ERROR(DispatchSlots(placement, x, expert_ids));
    } else {
      CHOIR_RETURN_IF_ERROR(DispatchRows(placement, x, expert_ids));
    }
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }

  StatusOr<DispatchedRows> EndDispatch() override {
    const MonoTime start = Clock::Real().Now();
    if (!in_slots_) {
      CHOIR_RETURN_IF_ERROR(ExchangeHeaders());
      CHOIR_RETURN_IF_ERROR(GroupRows());
    }
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return DispatchedRows{Grouped(), plan_.offsets(), plan_.experts()};
  }

  Status BeginCombine(TensorView expert_out, TensorView y) override {
    const MonoTime start = Clock::Real().Now();
    CheckCombine(limits_, plan_, expert_out, y);
    y_ = y;
    CHOIR_RETURN_IF_ERROR(SendOutputs(expert_out));
    // Own outputs while the others travel; each goes to its slot.
    const std::vector<int32_t>& own = plan_.from(plan_.self()).positions;
    const TensorView mine =
        RowMover::Rows(room_.gathered, DType::kF32, limits_.hidden, 0, own.size());
    mover_.Gather(own, expert_out, mine);
    if (!own.empty()) mover_.Scatter(mine, y, plan_.to(plan_.self()).slots);
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }

  Status EndCombine() override {
    const MonoTime start = Clock::Real().Now();
    CHOIR_RETURN_IF_ERROR(link_.End(parts_.stream.native));
    slots_.clear();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      slots_.insert(slots_.end(), plan_.to(r).slots.begin(), plan_.to(r).slots.end());
    }
    if (!slots_.empty()) {
      mover_.Scatter(RowMover::Rows(room_.received, DType::kF32, limits_.hidden, 0, slots_.size()),
                     y_, slots_);
    }
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }

  const ExchangeStats& stats() const override { return stats_; }

 protected:
  DeviceCollectives& link_;
  const ExchangeLimits limits_;
  const SlotShape shape_;

  // Of the rank with the most in this step; 0: not known. The same on all ranks.
  int64_t MostTokens() const {
    return step_tokens_.empty() ? 0 : *std::max_element(step_tokens_.begin(), step_tokens_.end());
  }
  // Of each rank's slot in this step; 0: rows go one by one. The same on all ranks.
  int64_t SlotRows() const {
    const int64_t most = MostTokens();
    const bool fits = SlotBytes(most, shape_) <= link_.slots().sizes.slot;
    return fits && most <= parts_.slot_rows ? most : 0;
  }

 private:
  Status DispatchRows(const ExpertPlacement& placement, const TensorView& x,
                      const TensorView& expert_ids) {
    if (x.dim(0) > 0) {
      parts_.device->Copy(room_.ids.data(), expert_ids.raw(), expert_ids.num_bytes());
    }
    CHOIR_RETURN_IF_ERROR(mover_.Wait());
    const auto* ids = reinterpret_cast<const int32_t*>(room_.ids.data());
    CHOIR_RETURN_IF_ERROR(plan_.Begin(placement, x.dim(0), ids));
    own_rows_ = x;
    return SendRows();
  }

  Status DispatchSlots(const ExpertPlacement& placement, const TensorView& x,
                       const TensorView& expert_ids) {
    CHOIR_CHECK(step_tokens_[plan_.self()] == x.dim(0));
    const int64_t slot = SlotRows();
    CHOIR_ASSIGN_OR_RETURN(const TensorView all, ExchangeSlots(x, expert_ids, slot));
    CHOIR_RETURN_IF_ERROR(mover_.Wait());
    CHOIR_RETURN_IF_ERROR(plan_.BeginTogether(placement, step_tokens_, slot,
                                              reinterpret_cast<const int32_t*>(room_.ids.data())));
    // By expert: pairs have their places already, so one gather brings the rows there.
    index_.resize(static_cast<size_t>(plan_.received()));
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      const ExchangePlan::Incoming& in = plan_.from(r);
      for (size_t i = 0; i < in.pairs.size(); ++i) {
        index_[static_cast<size_t>(in.positions[i])] =
            static_cast<int32_t>(static_cast<int64_t>(r) * slot) + in.pairs[i].row;
      }
    }
    GatherAs(index_, all, Grouped());
    return absl::OkStatus();
  }

  // Own rows and choices to all, those of all to this rank; what is beyond a rank's rows in its
  // slot is nobody's. Returns the rows; the choices come to the host.
  StatusOr<TensorView> ExchangeSlots(const TensorView& x, const TensorView& expert_ids,
                                     int64_t slot) {
    const auto ranks = static_cast<int64_t>(plan_.ranks());
    const size_t ids_bytes = static_cast<size_t>(slot * limits_.top_k) * sizeof(int32_t);
    const size_t row_bytes = static_cast<size_t>(slot * width_) * SizeOf(payload_);
    const SlotParts parts = SlotPartsIn(link_.slots(), ranks, ids_bytes, row_bytes);
    if (x.dim(0) > 0) {
      parts_.device->Copy(parts.ids.own, expert_ids.raw(), expert_ids.num_bytes());
      mover_.Round(x, Travelling(parts.rows.own, x.dim(0)));
    }
    stats_.dispatch_bytes += (plan_.ranks() - 1) * parts.bytes();
    void* const stream = parts_.stream.native;
    CHOIR_RETURN_IF_ERROR(link_.BeginSlots("dispatch", parts.posts(), stream));
    CHOIR_RETURN_IF_ERROR(link_.End(stream));
    parts_.device->Copy(room_.ids.data(), parts.ids.all, ids_bytes * plan_.ranks());
    return Travelling(parts.rows.all, ranks * slot);
  }

  TensorView Travelling(std::byte* at, int64_t rows) const {
    return TensorView(static_cast<void*>(at), payload_, {rows, width_});
  }
  TensorView Travelling(const DeviceBuffer& in, int64_t rows) const {
    CHOIR_CHECK(static_cast<size_t>(rows * width_) * SizeOf(payload_) <= in.size());
    return Travelling(in.data(), rows);
  }

  // to[i] = from[rows[i]] in the dtype of `to`.
  void GatherAs(std::span<const int32_t> rows, const TensorView& from, const TensorView& to) {
    if (to.dtype() == DType::kF32) return mover_.Gather(rows, from, to);
    const TensorView gathered = Widened(0, static_cast<int64_t>(rows.size()));
    mover_.Gather(rows, from, gathered);
    if (!rows.empty()) mover_.Round(gathered, to);
  }

  // Rows that leave, in the order of the messages.
  Status SendRows() {
    index_.clear();
    const size_t row = static_cast<size_t>(width_) * SizeOf(payload_);
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      const bool here = r == plan_.self();
      const std::vector<int32_t>& tokens = plan_.to(r).tokens;
      send_bytes_[r] = here ? 0 : tokens.size() * row;
      recv_bytes_[r] = here ? 0 : plan_.counts_from(r).rows * row;
      stats_.dispatch_bytes += send_bytes_[r];
      if (!here) index_.insert(index_.end(), tokens.begin(), tokens.end());
    }
    GatherAs(index_, own_rows_, Travelling(room_.outbound, static_cast<int64_t>(index_.size())));
    return Begin("dispatch");
  }

  Status SendOutputs(const TensorView& outputs) {
    const ExchangePlan::Bytes& bytes =
        plan_.CombineBytes(static_cast<size_t>(limits_.hidden) * sizeof(float));
    send_bytes_ = bytes.send;
    recv_bytes_ = bytes.recv;
    stats_.combine_bytes += bytes.send_total;
    index_.clear();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      const std::vector<int32_t>& positions = plan_.from(r).positions;
      index_.insert(index_.end(), positions.begin(), positions.end());
    }
    mover_.Gather(index_, outputs,
                  RowMover::Rows(room_.outbound, DType::kF32, limits_.hidden, 0, index_.size()));
    return Begin("combine");
  }

  Status Begin(const char* what) {
    return link_.Begin({.what = what,
                        .send = room_.outbound.data(),
                        .send_bytes = send_bytes_,
                        .recv = room_.received.data(),
                        .recv_bytes = recv_bytes_},
                       parts_.stream.native);
  }

  // Which expert each row is for, by the hosts, while the rows travel.
  Status ExchangeHeaders() {
    const ExchangePlan::Bytes& bytes = plan_.DispatchBytes(0);
    headers_out_.resize(bytes.send_total);
    headers_in_.resize(bytes.recv_total);
    std::byte* to = headers_out_.data();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r != plan_.self()) to = plan_.WritePairs(r, to);
    }
    stats_.dispatch_bytes += bytes.send_total;
    CHOIR_RETURN_IF_ERROR(
        collectives_->AllToAllV(headers_out_, bytes.send, headers_in_, bytes.recv));
    return plan_.Order(headers_in_, 0);
  }

  // Own rows and those that came, in the order of their experts.
  Status GroupRows() {
    const ExchangePlan::Incoming& own = plan_.from(plan_.self());
    slots_.assign(own.positions.begin(), own.positions.end());
    index_.clear();
    for (const ExchangePlan::Pair& pair : own.pairs) {
      index_.push_back(plan_.to(plan_.self()).tokens[static_cast<size_t>(pair.row)]);
    }
    const auto num_own = static_cast<int64_t>(index_.size());
    mover_.Gather(index_, own_rows_, Widened(0, num_own));
    CHOIR_RETURN_IF_ERROR(link_.End(parts_.stream.native));
    index_.clear();
    int64_t rows = 0;
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      const ExchangePlan::Incoming& in = plan_.from(r);
      for (const ExchangePlan::Pair& pair : in.pairs) {
        index_.push_back(static_cast<int32_t>(rows) + pair.row);
      }
      slots_.insert(slots_.end(), in.positions.begin(), in.positions.end());
      rows += plan_.counts_from(r).rows;
    }
    mover_.Gather(index_, Travelling(room_.received, rows),
                  Widened(num_own, static_cast<int64_t>(index_.size())));
    mover_.Scatter(Widened(0, plan_.received()), Grouped(), slots_);
    return absl::OkStatus();
  }

  // Rows of room_.gathered.
  TensorView Widened(int64_t first, int64_t count) const {
    return RowMover::Rows(room_.gathered, DType::kF32, width_, first, static_cast<size_t>(count));
  }
  // What a dispatch returns.
  TensorView Grouped() const {
    return RowMover::Rows(room_.grouped, payload_, width_, 0,
                          static_cast<size_t>(plan_.received()));
  }

  Collectives* const collectives_;
  const DeviceExchangeParts parts_;
  const ExchangeRoom& room_;
  ExchangePlan plan_;
  RowMover mover_;
  bool in_slots_ = false;
  TensorView own_rows_, y_;  // between the parts of a dispatch and a combine
  DType payload_ = DType::kF32;
  int64_t width_ = 0;                            // columns of the rows of a dispatch
  std::vector<int64_t> step_tokens_;             // by rank; empty: not known
  std::vector<size_t> send_bytes_, recv_bytes_;  // by rank
  std::vector<std::byte> headers_out_, headers_in_;
  std::vector<int32_t> index_;
  std::vector<int64_t> slots_;
  ExchangeStats own_stats_;

 protected:
  ExchangeStats& stats_;
};

// The exchange of an epoch: one, or the first of two where steps may be computed as micro-batches.
class EpochExchange final : public DirectExchange {
 public:
  EpochExchange(Collectives* collectives, const ExchangeLimits& limits,
                const DeviceExchangeParts& parts)
      : DirectExchange(collectives, limits, parts),
        micro_batch_rows_(parts.micro_batch_rows),
        output_rows_(parts.slot_output_rows),
        slots_(*collectives, collectives->device(), limits, parts, &stats_),
        guard_(parts.device, collectives->device()) {
    if (parts.second_room == nullptr) return;
    DeviceExchangeParts second = parts;
    second.room = parts.second_room;
    second_.emplace(collectives, SecondLimits(limits), second, &stats_);
    both_ = {this, &*second_};
  }

  std::span<ExpertExchange* const> MicroBatches() override {
    if (!second_ || SlotRows() > 0 || MostTokens() < micro_batch_rows_) return {};
    return both_;
  }

  SlotExchange* InSlots() override {
    const int64_t rows = SlotRows();
    if (rows == 0 || rows > output_rows_) return nullptr;
    if (OutputBytes(rows, shape_) > link_.slots().sizes.outputs) return nullptr;
    slots_.BeginStep(rows);
    return &slots_;
  }

 private:
  const int64_t micro_batch_rows_, output_rows_;
  SlotExchange slots_;
  std::optional<DirectExchange> second_;
  std::array<ExpertExchange*, 2> both_{};
  const GuardedLink guard_;
};

}  // namespace

ExchangeLimits SecondLimits(ExchangeLimits limits) {
  limits.tokens_max /= 2;
  return limits;
}

std::unique_ptr<ExpertExchange> MakeDirectExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits,
                                                   const DeviceExchangeParts& parts) {
  CHOIR_CHECK(collectives->device() != nullptr);
  return std::make_unique<EpochExchange>(collectives, limits, parts);
}

}  // namespace choir
