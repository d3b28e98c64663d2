#include "worker/comm/expert_exchange.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <span>

#include "common/base/check.h"
#include "common/base/clock.h"

namespace choir {
namespace {

constexpr size_t kAlignment = 64;

// Memory that grows and never shrinks; growing loses what was in it.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { Free(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::span<std::byte> Take(size_t bytes) {
    if (bytes > capacity_ || data_ == nullptr) {
      Free();
      capacity_ = std::max(bytes + bytes / 2, kAlignment);
      data_ = static_cast<std::byte*>(::operator new (capacity_, std::align_val_t{kAlignment}));
    }
    return {data_, bytes};
  }

 private:
  void Free() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{kAlignment});
    data_ = nullptr;
  }
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
};

class ExpertExchangeImpl final : public ExpertExchange {
 public:
  ExpertExchangeImpl(Collectives* collectives, const ExchangeLimits& limits)
      : collectives_(collectives), limits_(limits), plan_(collectives, limits) {}

  Status BeginDispatch(const ExpertPlacement& placement, TensorView x, TensorView expert_ids,
                       DType payload) override {
    const MonoTime start = Clock::Real().Now();
    const int64_t tokens = CheckDispatch(limits_, x, expert_ids, payload);
    payload_ = payload;
    width_ = WidthOf(limits_, x);
    row_bytes_ = static_cast<size_t>(width_) * SizeOf(payload);
    const float* rows = tokens == 0 ? nullptr : x.f32();
    CHOIR_RETURN_IF_ERROR(
        plan_.Begin(placement, tokens, tokens == 0 ? nullptr : expert_ids.data<int32_t>()));
    CHOIR_RETURN_IF_ERROR(ExchangeRows(rows));
    CHOIR_RETURN_IF_ERROR(plan_.Order(received_, row_bytes_));
    grouped_ = GroupRows(rows);
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }
  StatusOr<DispatchedRows> EndDispatch() override {
    return DispatchedRows{grouped_, plan_.offsets(), plan_.experts()};
  }

  Status BeginCombine(TensorView expert_out, TensorView y) override {
    const MonoTime start = Clock::Real().Now();
    CheckCombine(limits_, plan_, expert_out, y);
    const float* outputs = plan_.received() == 0 ? nullptr : expert_out.f32();
    float* to = plan_.tokens() == 0 ? nullptr : y.f32();
    const std::vector<int32_t>& own_rows = plan_.from(plan_.self()).positions;
    const std::vector<int64_t>& own_slots = plan_.to(plan_.self()).slots;
    for (size_t i = 0; i < own_rows.size(); ++i) {
      CopyOutput(outputs + own_rows[i] * limits_.hidden, to + own_slots[i] * limits_.hidden);
    }
    CHOIR_RETURN_IF_ERROR(plan_.ranks() == 1 ? collectives_->status() : ReturnOutputs(outputs, to));
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }
  Status EndCombine() override { return absl::OkStatus(); }

  const ExchangeStats& stats() const override { return stats_; }

 private:
  void WriteRow(const float* from, std::byte* to) const {
    const auto n = static_cast<size_t>(width_);
    if (payload_ == DType::kF32) {
      std::memcpy(to, from, n * sizeof(float));
      return;
    }
    bf16* out = reinterpret_cast<bf16*>(to);
    for (size_t i = 0; i < n; ++i) out[i] = ToBF16(from[i]);
  }

  Status ExchangeRows(const float* rows) {
    const ExchangePlan::Bytes& bytes = plan_.DispatchBytes(row_bytes_);
    received_ = {};
    if (plan_.ranks() == 1) return absl::OkStatus();
    const std::span<std::byte> send = send_buffer_.Take(bytes.send_total);
    std::byte* to = send.data();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      to = plan_.WritePairs(r, to);
      for (const int32_t token : plan_.to(r).tokens) {
        WriteRow(rows + token * width_, to);
        to += row_bytes_;
      }
    }
    received_ = recv_buffer_.Take(bytes.recv_total);
    stats_.dispatch_bytes += bytes.send_total;
    return collectives_->AllToAllV(send, bytes.send, received_, bytes.recv);
  }

  TensorView GroupRows(const float* own_rows) {
    const int64_t received = plan_.received();
    std::byte* grouped = grouped_buffer_.Take(static_cast<size_t>(received) * row_bytes_).data();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      const ExchangePlan::Incoming& in = plan_.from(r);
      for (size_t i = 0; i < in.pairs.size(); ++i) {
        std::byte* to = grouped + static_cast<size_t>(in.positions[i]) * row_bytes_;
        const auto row = static_cast<size_t>(in.pairs[i].row);
        if (r == plan_.self()) {
          WriteRow(own_rows + plan_.to(r).tokens[row] * width_, to);
        } else {
          std::memcpy(to, received_.data() + in.rows_begin + row * row_bytes_, row_bytes_);
        }
      }
    }
    return TensorView(static_cast<void*>(grouped), payload_, {received, width_});
  }

  void CopyOutput(const float* from, float* to) const {
    std::memcpy(to, from, static_cast<size_t>(limits_.hidden) * sizeof(float));
  }

  Status ReturnOutputs(const float* outputs, float* y) {
    const size_t output_bytes = static_cast<size_t>(limits_.hidden) * sizeof(float);
    const ExchangePlan::Bytes& bytes = plan_.CombineBytes(output_bytes);
    const std::span<std::byte> send = send_buffer_.Take(bytes.send_total);
    std::byte* to = send.data();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      for (const int32_t row : plan_.from(r).positions) {
        std::memcpy(to, outputs + row * limits_.hidden, output_bytes);
        to += output_bytes;
      }
    }
    const std::span<std::byte> recv = recv_buffer_.Take(bytes.recv_total);
    stats_.combine_bytes += bytes.send_total;
    CHOIR_RETURN_IF_ERROR(collectives_->AllToAllV(send, bytes.send, recv, bytes.recv));
    const std::byte* from = recv.data();
    for (size_t r = 0; r < plan_.ranks(); ++r) {
      if (r == plan_.self()) continue;
      for (const int64_t slot : plan_.to(r).slots) {
        std::memcpy(y + slot * limits_.hidden, from, output_bytes);
        from += output_bytes;
      }
    }
    return absl::OkStatus();
  }

  Collectives* const collectives_;
  const ExchangeLimits limits_;
  ExchangePlan plan_;
  DType payload_ = DType::kF32;
  int64_t width_ = 0;  // columns of the rows of a dispatch
  size_t row_bytes_ = 0;
  std::span<std::byte> received_;
  TensorView grouped_;
  Scratch send_buffer_, recv_buffer_, grouped_buffer_;
  ExchangeStats stats_;
};

}  // namespace

int64_t WidthOf(const ExchangeLimits& limits, const TensorView& x) {
  return x.rank() == 2 ? x.dim(1) : limits.hidden;
}

int64_t CheckDispatch(const ExchangeLimits& limits, const TensorView& x,
                      const TensorView& expert_ids, DType payload) {
  CHOIR_CHECK(payload == DType::kF32 || payload == DType::kBF16);
  const int64_t tokens = x.rank() == 2 ? x.dim(0) : 0;
  CHOIR_CHECK(tokens <= limits.tokens_max);
  CHOIR_CHECK(WidthOf(limits, x) <= limits.hidden);
  if (tokens == 0) return 0;
  CHOIR_CHECK(x.dtype() == DType::kF32);
  CHOIR_CHECK(expert_ids.dtype() == DType::kI32 && expert_ids.dim(0) == tokens &&
              expert_ids.dim(1) == limits.top_k);
  return tokens;
}

void CheckCombine(const ExchangeLimits& limits, const ExchangePlan& plan,
                  const TensorView& expert_out, const TensorView& y) {
  CHOIR_CHECK(plan.received() == 0 ||
              (expert_out.dtype() == DType::kF32 && expert_out.dim(0) == plan.received() &&
               expert_out.dim(1) == limits.hidden));
  CHOIR_CHECK(plan.tokens() == 0 ||
              (y.dtype() == DType::kF32 && y.dim(0) == plan.tokens() * limits.top_k &&
               y.dim(1) == limits.hidden));
}

std::unique_ptr<ExpertExchange> MakeExpertExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits) {
  return std::make_unique<ExpertExchangeImpl>(collectives, limits);
}

}  // namespace choir
