// ExchangePlan: which rows of a layer travel where, and where they land; an ExpertExchange without
// the rows themselves, so that exchanges differ only in the memory their rows lie in. One per
// exchange, owner thread only.
//
// A layer: Begin (own choices; what the others will send), Order (what they sent). One rank's
// message to another in a dispatch is `pairs` times Pair, then `rows` rows of the payload; a token
// with several experts on one rank travels once. The way back has one output a pair, in the order
// of the pairs.
//
// Of an expert with copies on several ranks, a rank's own rows go to them in turn, beginning with a
// different one on each rank. Only the source decides: who receives a row computes any expert that
// it holds, and an output's place at the source does not tell who computed it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "worker/comm/collectives.h"
#include "worker/comm/expert_placement.h"

namespace choir {

struct ExchangeLimits {
  int64_t tokens_max = 0;  // own tokens in a step, per rank
  int64_t top_k = 0;
  int64_t hidden = 0;
};

class ExchangePlan {
 public:
  struct Counts {
    uint32_t rows = 0;
    uint32_t pairs = 0;
  };
  struct Pair {
    int32_t row = 0;     // among the message's rows
    int32_t expert = 0;  // global id
  };
  struct Outgoing {               // to one rank
    std::vector<int32_t> tokens;  // by row of the message
    std::vector<Pair> pairs;      // by token, then expert
    std::vector<int64_t> slots;   // by pair: t * top_k + k
  };
  struct Incoming {         // from one rank
    size_t rows_begin = 0;  // of its payload in what was received; not of own rows
    std::vector<Pair> pairs;
    std::vector<int32_t> positions;  // by pair: row of the grouped tensor
  };
  struct Bytes {  // of one all-to-all, by rank; own rows do not travel
    std::vector<size_t> send, recv;
    size_t send_total = 0, recv_total = 0;
  };

  // `collectives` outlives the plan.
  ExchangePlan(Collectives* collectives, const ExchangeLimits& limits);

  // expert_ids: [tokens, top_k], ascending in a row. `placement` stays as it is until CombineBytes.
  // All ranks together; errors abort the communicator.
  Status Begin(const ExpertPlacement& placement, int64_t tokens, const int32_t* expert_ids);
  // Both where this rank knows all choices: those of rank r begin at r * tokens_each * top_k of
  // `expert_ids`, tokens[r] of them count. A pair's row is then its token. No rank has to be asked;
  // choices that cannot be abort the communicator.
  Status BeginTogether(const ExpertPlacement& placement, std::span<const int64_t> tokens,
                       int64_t tokens_each, const int32_t* expert_ids);
  // Of the messages of a dispatch with rows of `row_bytes`.
  const Bytes& DispatchBytes(size_t row_bytes);
  // The header of the message to `rank`; returns what follows it.
  std::byte* WritePairs(size_t rank, std::byte* to) const;
  // Reads the headers of all messages and gives every pair its row: by slot, then source rank,
  // then token. Errors abort the communicator.
  Status Order(std::span<const std::byte> received, size_t row_bytes);
  // Of the outputs on their way back. REQUIRES: Order.
  const Bytes& CombineBytes(size_t output_bytes);

  size_t ranks() const { return ranks_; }
  size_t self() const { return self_; }
  const Outgoing& to(size_t rank) const { return outgoing_[rank]; }
  const Incoming& from(size_t rank) const { return incoming_[rank]; }
  const Counts& counts_from(size_t rank) const { return counts_[rank * ranks_ + self_]; }
  int64_t tokens() const { return tokens_; }                         // own
  int64_t received() const { return received_; }                     // rows to compute here
  const std::vector<int32_t>& experts() const { return *experts_; }  // of this rank, by slot
  const std::vector<int32_t>& offsets() const { return offsets_; }   // [experts + 1]

 private:
  void Use(const ExpertPlacement& placement);
  void PlanOutgoing(const int32_t* expert_ids);
  Status PlanIncoming(size_t source, int64_t tokens, const int32_t* expert_ids);
  size_t RankFor(int32_t expert, size_t source);
  void PlacePairs();
  int32_t SlotOf(int32_t expert) const {  // among this rank's; -1: not here
    const bool known = expert >= 0 && static_cast<size_t>(expert) < slot_of_.size();
    return known ? slot_of_[static_cast<size_t>(expert)] : -1;
  }
  Status ExchangeCounts();
  Status ReadPairs(std::span<const std::byte> received, size_t row_bytes);
  const Counts& CountsOf(size_t from, size_t to) const { return counts_[from * ranks_ + to]; }
  size_t MessageBytes(const Counts& c, size_t row_bytes) const {
    return c.pairs * sizeof(Pair) + c.rows * row_bytes;
  }

  Collectives* const collectives_;
  const ExchangeLimits limits_;
  const size_t self_;
  const size_t ranks_;

  const ExpertPlacement* placement_ = nullptr;  // of the layer
  const std::vector<int32_t>* experts_ = nullptr;
  std::vector<int32_t> slot_of_;  // by expert
  std::vector<uint32_t> turns_;   // by expert with copies: own rows so far
  int64_t tokens_ = 0;
  int64_t received_ = 0;
  std::vector<Outgoing> outgoing_;  // by rank
  std::vector<Counts> own_counts_;
  std::vector<Counts> counts_;      // [from][to]
  std::vector<Incoming> incoming_;  // by rank
  std::vector<int32_t> offsets_;
  std::vector<int32_t> next_;
  Bytes bytes_;
};

}  // namespace choir
