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
constexpr int kRanksMax = 512;  // the counts of one rank fit one all-gather

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

// One rank's message to another in Dispatch: `pairs` times Pair, then `rows` rows of the payload. A
// token with several experts on one rank travels once.
struct Counts {
  uint32_t rows = 0;
  uint32_t pairs = 0;
};
struct Pair {
  int32_t row = 0;     // among the message's rows
  int32_t expert = 0;  // global id
};
static_assert(sizeof(Counts) == 8 && sizeof(Pair) == 8);

class ExpertExchangeImpl final : public ExpertExchange {
 public:
  ExpertExchangeImpl(Collectives* collectives, const ExpertPlacement& placement,
                     const ExchangeLimits& limits)
      : collectives_(collectives),
        placement_(placement),
        limits_(limits),
        self_(static_cast<size_t>(collectives->rank())),
        ranks_(static_cast<size_t>(collectives->size())),
        first_expert_(placement.Begin(collectives->rank())),
        local_experts_(placement.End(collectives->rank()) - first_expert_),
        outgoing_(ranks_),
        counts_(ranks_ * ranks_),
        incoming_(ranks_),
        send_bytes_(ranks_),
        recv_bytes_(ranks_) {
    CHOIR_CHECK(collectives->size() == placement.num_ranks());
    CHOIR_CHECK(collectives->size() <= kRanksMax);
    CHOIR_CHECK(limits.tokens_max >= 0 && limits.tokens_max < INT32_MAX);
    CHOIR_CHECK(limits.top_k >= 1 && limits.hidden >= 1);
  }

  StatusOr<DispatchedRows> Dispatch(TensorView x, TensorView expert_ids, DType payload) override {
    const MonoTime start = Clock::Real().Now();
    CHOIR_CHECK(payload == DType::kF32 || payload == DType::kBF16);
    tokens_ = x.rank() == 2 ? x.dim(0) : 0;
    CHOIR_CHECK(tokens_ <= limits_.tokens_max);
    CHOIR_CHECK(tokens_ == 0 || (x.dtype() == DType::kF32 && x.dim(1) == limits_.hidden));
    CHOIR_CHECK(tokens_ == 0 ||
                (expert_ids.dtype() == DType::kI32 && expert_ids.dim(0) == tokens_ &&
                 expert_ids.dim(1) == limits_.top_k));
    payload_ = payload;
    row_bytes_ = static_cast<size_t>(limits_.hidden) * SizeOf(payload);
    const float* rows = tokens_ == 0 ? nullptr : x.f32();
    PlanOutgoing(tokens_ == 0 ? nullptr : expert_ids.data<int32_t>());
    CHOIR_RETURN_IF_ERROR(ExchangeCounts());
    CHOIR_RETURN_IF_ERROR(ExchangeRows(rows));
    if (Status order = OrderIncoming(); !order.ok()) {
      collectives_->Abort(order);
      return order;
    }
    DispatchedRows out{GroupRows(rows), offsets_, first_expert_};
    stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
    return out;
  }

  Status Combine(TensorView expert_out, TensorView y) override {
    const MonoTime start = Clock::Real().Now();
    const float* outputs = received_ == 0 ? nullptr : expert_out.f32();
    CHOIR_CHECK(received_ == 0 ||
                (expert_out.dtype() == DType::kF32 && expert_out.dim(0) == received_ &&
                 expert_out.dim(1) == limits_.hidden));
    CHOIR_CHECK(tokens_ == 0 || (y.dtype() == DType::kF32 && y.dim(0) == tokens_ * limits_.top_k &&
                                 y.dim(1) == limits_.hidden));
    float* to = tokens_ == 0 ? nullptr : y.f32();
    const std::vector<int32_t>& own_rows = incoming_[self_].positions;
    for (size_t i = 0; i < own_rows.size(); ++i) {
      CopyOutput(outputs + own_rows[i] * limits_.hidden,
                 to + outgoing_[self_].slots[i] * limits_.hidden);
    }
    CHOIR_RETURN_IF_ERROR(ranks_ == 1 ? collectives_->status() : ReturnOutputs(outputs, to));
    stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
    return absl::OkStatus();
  }

  const ExchangeStats& stats() const override { return stats_; }

 private:
  struct Outgoing {               // to one rank
    std::vector<int32_t> tokens;  // by row of the message
    std::vector<Pair> pairs;      // by token, then expert
    std::vector<int64_t> slots;   // by pair: t * top_k + k
  };
  struct Incoming {                   // from one rank
    const std::byte* rows = nullptr;  // payload rows inside the receive buffer; own rows: null
    std::vector<Pair> pairs;
    std::vector<int32_t> positions;  // by pair: row of the grouped tensor
  };

  void PlanOutgoing(const int32_t* expert_ids) {
    for (Outgoing& out : outgoing_) {
      out.tokens.clear();
      out.pairs.clear();
      out.slots.clear();
    }
    for (int64_t t = 0; t < tokens_; ++t) {
      for (int64_t k = 0; k < limits_.top_k; ++k) {
        const int64_t slot = t * limits_.top_k + k;
        const int32_t expert = expert_ids[slot];
        CHOIR_CHECK(expert >= 0 && expert < placement_.num_experts());
        Outgoing& out = outgoing_[static_cast<size_t>(placement_.OwnerOf(expert))];
        if (out.tokens.empty() || out.tokens.back() != t)
          out.tokens.push_back(static_cast<int32_t>(t));
        out.pairs.push_back({static_cast<int32_t>(out.tokens.size() - 1), expert});
        out.slots.push_back(slot);
      }
    }
  }

  Counts& CountsOf(size_t from, size_t to) { return counts_[from * ranks_ + to]; }
  size_t MessageBytes(const Counts& c) const {
    return c.pairs * sizeof(Pair) + c.rows * row_bytes_;
  }

  Status ExchangeCounts() {
    own_counts_.resize(ranks_);
    for (size_t r = 0; r < ranks_; ++r) {
      own_counts_[r] = {static_cast<uint32_t>(outgoing_[r].tokens.size()),
                        static_cast<uint32_t>(outgoing_[r].pairs.size())};
    }
    if (ranks_ == 1) {
      counts_[0] = own_counts_[0];
      return collectives_->status();
    }
    CHOIR_RETURN_IF_ERROR(collectives_->AllGather(std::as_bytes(std::span(own_counts_)),
                                                  std::as_writable_bytes(std::span(counts_))));
    for (size_t r = 0; r < ranks_; ++r) {
      const Counts& c = CountsOf(r, self_);
      if (c.rows > limits_.tokens_max || c.pairs > limits_.tokens_max * limits_.top_k) {
        Status bad =
            Internal("dispatch: rank {} sends {} rows and {} pairs, over the limit of {} tokens", r,
                     c.rows, c.pairs, limits_.tokens_max);
        collectives_->Abort(bad);
        return bad;
      }
    }
    return absl::OkStatus();
  }

  void WriteRow(const float* from, std::byte* to) const {
    const auto n = static_cast<size_t>(limits_.hidden);
    if (payload_ == DType::kF32) {
      std::memcpy(to, from, n * sizeof(float));
      return;
    }
    bf16* out = reinterpret_cast<bf16*>(to);
    for (size_t i = 0; i < n; ++i) out[i] = ToBF16(from[i]);
  }

  Status ExchangeRows(const float* rows) {
    size_t send_total = 0, recv_total = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      send_bytes_[r] = r == self_ ? 0 : MessageBytes(CountsOf(self_, r));
      recv_bytes_[r] = r == self_ ? 0 : MessageBytes(CountsOf(r, self_));
      send_total += send_bytes_[r];
      recv_total += recv_bytes_[r];
    }
    received_bytes_ = {};
    if (ranks_ == 1) return absl::OkStatus();
    const std::span<std::byte> send = send_buffer_.Take(send_total);
    std::byte* to = send.data();
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == self_) continue;
      const Outgoing& out = outgoing_[r];
      if (!out.pairs.empty()) std::memcpy(to, out.pairs.data(), out.pairs.size() * sizeof(Pair));
      to += out.pairs.size() * sizeof(Pair);
      for (const int32_t token : out.tokens) {
        WriteRow(rows + token * limits_.hidden, to);
        to += row_bytes_;
      }
    }
    received_bytes_ = recv_buffer_.Take(recv_total);
    stats_.dispatch_bytes += send_total;
    return collectives_->AllToAllV(send, send_bytes_, received_bytes_, recv_bytes_);
  }

  // Unpacks the headers and gives every pair its row: by expert, then source rank, then token.
  Status OrderIncoming() {
    const std::byte* from = received_bytes_.data();
    offsets_.assign(static_cast<size_t>(local_experts_) + 1, 0);
    for (size_t r = 0; r < ranks_; ++r) {
      Incoming& in = incoming_[r];
      const Counts c = CountsOf(r, self_);
      in.rows = nullptr;
      if (r == self_) {
        in.pairs = outgoing_[r].pairs;
      } else {
        in.pairs.resize(c.pairs);
        if (c.pairs > 0) std::memcpy(in.pairs.data(), from, c.pairs * sizeof(Pair));
        in.rows = from + c.pairs * sizeof(Pair);
        from += MessageBytes(c);
      }
      for (const Pair& pair : in.pairs) {
        const int32_t local = pair.expert - first_expert_;
        if (local < 0 || local >= local_experts_ || pair.row < 0 ||
            static_cast<uint32_t>(pair.row) >= c.rows) {
          return Internal(
              "dispatch: rank {} sent expert {} row {} of {} to rank {}, which owns [{}, {})", r,
              pair.expert, pair.row, c.rows, self_, first_expert_, first_expert_ + local_experts_);
        }
        ++offsets_[static_cast<size_t>(local) + 1];
      }
    }
    for (size_t e = 1; e < offsets_.size(); ++e) offsets_[e] += offsets_[e - 1];
    received_ = offsets_.back();
    next_.assign(offsets_.begin(), offsets_.end() - 1);
    for (Incoming& in : incoming_) {
      in.positions.clear();
      for (const Pair& pair : in.pairs) {
        in.positions.push_back(next_[static_cast<size_t>(pair.expert - first_expert_)]++);
      }
    }
    return absl::OkStatus();
  }

  TensorView GroupRows(const float* own_rows) {
    std::byte* grouped = grouped_buffer_.Take(static_cast<size_t>(received_) * row_bytes_).data();
    for (size_t r = 0; r < ranks_; ++r) {
      const Incoming& in = incoming_[r];
      for (size_t i = 0; i < in.pairs.size(); ++i) {
        std::byte* to = grouped + static_cast<size_t>(in.positions[i]) * row_bytes_;
        const auto row = static_cast<size_t>(in.pairs[i].row);
        if (r == self_) {
          WriteRow(own_rows + outgoing_[r].tokens[row] * limits_.hidden, to);
        } else {
          std::memcpy(to, in.rows + row * row_bytes_, row_bytes_);
        }
      }
    }
    return TensorView(static_cast<void*>(grouped), payload_, {received_, limits_.hidden});
  }

  void CopyOutput(const float* from, float* to) const {
    std::memcpy(to, from, static_cast<size_t>(limits_.hidden) * sizeof(float));
  }

  Status ReturnOutputs(const float* outputs, float* y) {
    const size_t output_bytes = static_cast<size_t>(limits_.hidden) * sizeof(float);
    size_t send_total = 0, recv_total = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      send_bytes_[r] = r == self_ ? 0 : incoming_[r].pairs.size() * output_bytes;
      recv_bytes_[r] = r == self_ ? 0 : outgoing_[r].pairs.size() * output_bytes;
      send_total += send_bytes_[r];
      recv_total += recv_bytes_[r];
    }
    const std::span<std::byte> send = send_buffer_.Take(send_total);
    std::byte* to = send.data();
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == self_) continue;
      for (const int32_t row : incoming_[r].positions) {
        std::memcpy(to, outputs + row * limits_.hidden, output_bytes);
        to += output_bytes;
      }
    }
    const std::span<std::byte> recv = recv_buffer_.Take(recv_total);
    stats_.combine_bytes += send_total;
    CHOIR_RETURN_IF_ERROR(collectives_->AllToAllV(send, send_bytes_, recv, recv_bytes_));
    const std::byte* from = recv.data();
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == self_) continue;
      for (const int64_t slot : outgoing_[r].slots) {
        std::memcpy(y + slot * limits_.hidden, from, output_bytes);
        from += output_bytes;
      }
    }
    return absl::OkStatus();
  }

  Collectives* const collectives_;
  const ExpertPlacement placement_;
  const ExchangeLimits limits_;
  const size_t self_;
  const size_t ranks_;
  const int32_t first_expert_;
  const int32_t local_experts_;

  int64_t tokens_ = 0;    // own, of the step's layer in flight
  int64_t received_ = 0;  // rows to compute here
  DType payload_ = DType::kF32;
  size_t row_bytes_ = 0;
  std::vector<Outgoing> outgoing_;  // by rank
  std::vector<Counts> own_counts_;
  std::vector<Counts> counts_;      // [from][to]
  std::vector<Incoming> incoming_;  // by rank
  std::vector<int32_t> offsets_;
  std::vector<int32_t> next_;
  std::vector<size_t> send_bytes_, recv_bytes_;
  std::span<std::byte> received_bytes_;
  Scratch send_buffer_, recv_buffer_, grouped_buffer_;
  ExchangeStats stats_;
};

}  // namespace

std::unique_ptr<ExpertExchange> MakeExpertExchange(Collectives* collectives,
                                                   const ExpertPlacement& placement,
                                                   const ExchangeLimits& limits) {
  return std::make_unique<ExpertExchangeImpl>(collectives, placement, limits);
}

}  // namespace choir
