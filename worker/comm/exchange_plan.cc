#include "worker/comm/exchange_plan.h"

#include <cstring>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr int kRanksMax = 512;  // the counts of one rank fit one all-gather
static_assert(sizeof(ExchangePlan::Counts) == 8 && sizeof(ExchangePlan::Pair) == 8);

}  // namespace

ExchangePlan::ExchangePlan(Collectives* collectives, const ExchangeLimits& limits)
    : collectives_(collectives),
      limits_(limits),
      self_(static_cast<size_t>(collectives->rank())),
      ranks_(static_cast<size_t>(collectives->size())),
      outgoing_(ranks_),
      counts_(ranks_ * ranks_),
      incoming_(ranks_) {
  CHOIR_CHECK(collectives->size() <= kRanksMax);
  CHOIR_CHECK(limits.tokens_max >= 0 && limits.tokens_max < INT32_MAX);
  CHOIR_CHECK(limits.top_k >= 1 && limits.hidden >= 1);
  bytes_.send.resize(ranks_);
  bytes_.recv.resize(ranks_);
}

void ExchangePlan::Use(const ExpertPlacement& placement) {
  CHOIR_CHECK(placement.num_ranks() == collectives_->size());
  placement_ = &placement;
  experts_ = &placement.ExpertsOf(collectives_->rank());
  const auto num_experts = static_cast<size_t>(placement.num_experts());
  slot_of_.assign(num_experts, -1);
  for (size_t i = 0; i < experts_->size(); ++i) {
    slot_of_[static_cast<size_t>((*experts_)[i])] = static_cast<int32_t>(i);
  }
}

Status ExchangePlan::Begin(const ExpertPlacement& placement, int64_t tokens,
                           const int32_t* expert_ids) {
  CHOIR_CHECK(tokens <= limits_.tokens_max);
  Use(placement);
  tokens_ = tokens;
  PlanOutgoing(expert_ids);
  return ExchangeCounts();
}

Status ExchangePlan::BeginTogether(const ExpertPlacement& placement,
                                   std::span<const int64_t> tokens, int64_t tokens_each,
                                   const int32_t* expert_ids) {
  CHOIR_CHECK(tokens.size() == ranks_ && tokens_each <= limits_.tokens_max);
  Use(placement);
  tokens_ = tokens[self_];
  const int64_t stride = tokens_each * limits_.top_k;
  PlanOutgoing(expert_ids + static_cast<int64_t>(self_) * stride);
  offsets_.assign(experts_->size() + 1, 0);
  for (size_t r = 0; r < ranks_; ++r) {
    CHOIR_CHECK(tokens[r] <= tokens_each);
    const Status read = PlanIncoming(r, tokens[r], expert_ids + static_cast<int64_t>(r) * stride);
    if (read.ok()) continue;
    collectives_->Abort(read);
    return read;
  }
  PlacePairs();
  return absl::OkStatus();
}

// Who gets which of the source's rows, as the source itself decides it.
Status ExchangePlan::PlanIncoming(size_t source, int64_t tokens, const int32_t* expert_ids) {
  if (placement_->HasCopies()) turns_.assign(slot_of_.size(), 0);
  std::vector<Pair>& pairs = incoming_[source].pairs;
  pairs.clear();
  for (int64_t i = 0; i < tokens * limits_.top_k; ++i) {
    const int32_t expert = expert_ids[i];
    if (expert < 0 || expert >= placement_->num_experts()) {
      return Internal("dispatch: rank {} chose expert {} of {}", source, expert,
                      placement_->num_experts());
    }
    if (RankFor(expert, source) != self_) continue;
    pairs.push_back({static_cast<int32_t>(i / limits_.top_k), expert});
    ++offsets_[static_cast<size_t>(SlotOf(expert)) + 1];
  }
  return absl::OkStatus();
}

size_t ExchangePlan::RankFor(int32_t expert, size_t source) {
  const std::span<const int32_t> ranks = placement_->RanksOf(expert);
  if (ranks.size() == 1) return static_cast<size_t>(ranks[0]);
  const size_t turn = source + turns_[static_cast<size_t>(expert)]++;
  return static_cast<size_t>(ranks[turn % ranks.size()]);
}

void ExchangePlan::PlanOutgoing(const int32_t* expert_ids) {
  if (placement_->HasCopies()) turns_.assign(slot_of_.size(), 0);
  for (Outgoing& out : outgoing_) {
    out.tokens.clear();
    out.pairs.clear();
    out.slots.clear();
  }
  for (int64_t t = 0; t < tokens_; ++t) {
    for (int64_t k = 0; k < limits_.top_k; ++k) {
      const int64_t slot = t * limits_.top_k + k;
      const int32_t expert = expert_ids[slot];
      CHOIR_CHECK(expert >= 0 && expert < placement_->num_experts());
      Outgoing& out = outgoing_[RankFor(expert, self_)];
      if (out.tokens.empty() || out.tokens.back() != t)
        out.tokens.push_back(static_cast<int32_t>(t));
      out.pairs.push_back({static_cast<int32_t>(out.tokens.size() - 1), expert});
      out.slots.push_back(slot);
    }
  }
}

Status ExchangePlan::ExchangeCounts() {
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

const ExchangePlan::Bytes& ExchangePlan::DispatchBytes(size_t row_bytes) {
  bytes_.send_total = bytes_.recv_total = 0;
  for (size_t r = 0; r < ranks_; ++r) {
    bytes_.send[r] = r == self_ ? 0 : MessageBytes(CountsOf(self_, r), row_bytes);
    bytes_.recv[r] = r == self_ ? 0 : MessageBytes(CountsOf(r, self_), row_bytes);
    bytes_.send_total += bytes_.send[r];
    bytes_.recv_total += bytes_.recv[r];
  }
  return bytes_;
}

std::byte* ExchangePlan::WritePairs(size_t rank, std::byte* to) const {
  const std::vector<Pair>& pairs = outgoing_[rank].pairs;
  if (!pairs.empty()) std::memcpy(to, pairs.data(), pairs.size() * sizeof(Pair));
  return to + pairs.size() * sizeof(Pair);
}

Status ExchangePlan::Order(std::span<const std::byte> received, size_t row_bytes) {
  if (Status read = ReadPairs(received, row_bytes); !read.ok()) {
    collectives_->Abort(read);
    return read;
  }
  PlacePairs();
  return absl::OkStatus();
}

// From rows of each expert to a row for every pair.
void ExchangePlan::PlacePairs() {
  for (size_t e = 1; e < offsets_.size(); ++e) offsets_[e] += offsets_[e - 1];
  received_ = offsets_.back();
  next_.assign(offsets_.begin(), offsets_.end() - 1);
  for (Incoming& in : incoming_) {
    in.positions.clear();
    for (const Pair& pair : in.pairs) {
      in.positions.push_back(next_[static_cast<size_t>(SlotOf(pair.expert))]++);
    }
  }
}

// Unpacks the headers and counts the rows of each expert.
Status ExchangePlan::ReadPairs(std::span<const std::byte> received, size_t row_bytes) {
  size_t at = 0;
  offsets_.assign(experts_->size() + 1, 0);
  for (size_t r = 0; r < ranks_; ++r) {
    Incoming& in = incoming_[r];
    const Counts c = CountsOf(r, self_);
    if (r == self_) {
      in.pairs = outgoing_[r].pairs;
    } else {
      in.pairs.resize(c.pairs);
      if (c.pairs > 0) std::memcpy(in.pairs.data(), received.data() + at, c.pairs * sizeof(Pair));
      in.rows_begin = at + c.pairs * sizeof(Pair);
      at += MessageBytes(c, row_bytes);
    }
    for (const Pair& pair : in.pairs) {
      const int32_t slot = SlotOf(pair.expert);
      if (slot < 0 || pair.row < 0 || static_cast<uint32_t>(pair.row) >= c.rows) {
        return Internal("dispatch: rank {} sent expert {} row {} of {} to rank {}, which holds {}",
                        r, pair.expert, pair.row, c.rows, self_, fmt::join(*experts_, " "));
      }
      ++offsets_[static_cast<size_t>(slot) + 1];
    }
  }
  return absl::OkStatus();
}

const ExchangePlan::Bytes& ExchangePlan::CombineBytes(size_t output_bytes) {
  bytes_.send_total = bytes_.recv_total = 0;
  for (size_t r = 0; r < ranks_; ++r) {
    bytes_.send[r] = r == self_ ? 0 : incoming_[r].pairs.size() * output_bytes;
    bytes_.recv[r] = r == self_ ? 0 : outgoing_[r].pairs.size() * output_bytes;
    bytes_.send_total += bytes_.send[r];
    bytes_.recv_total += bytes_.recv[r];
  }
  return bytes_;
}

}  // namespace choir
