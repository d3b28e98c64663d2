// Steps of few rows without a word between hosts: each rank gathers the rows and choices of all in
// equal slots, its device finds out which of them are its own (layers/slot_experts.h), and outputs
// return in equal parts, a place for every choice of every rank. More bytes than an exchange that
// knows sizes, and nothing for the host to wait for. Private to worker/model; owner thread only.
#pragma once

#include <cstdint>

#include "worker/comm/device_collectives.h"
#include "worker/model/exchange_maker.h"

namespace choir {

// Of all ranks, in the slots' room until the next Gather.
struct GatheredRows {
  TensorView x;           // [ranks * rows, width] f32: those of rank r from r * rows on
  TensorView expert_ids;  // [ranks * rows, top_k] i32; -1: nobody's
};

class SlotExchange {
 public:
  // All of the parts, `link` and `stats` outlive it.
  SlotExchange(const Collectives& collectives, DeviceCollectives* link,
               const ExchangeLimits& limits, const DeviceExchangeParts& parts,
               ExchangeStats* stats);

  // Rows of each slot in the layers that follow: of the rank with the most.
  void BeginStep(int64_t rows) { rows_ = rows; }
  int32_t ranks() const { return ranks_; }
  int32_t self() const { return self_; }

  // x: [T, width] f32, T at most the slot's rows; expert_ids: [T, top_k] i32.
  StatusOr<GatheredRows> Gather(const TensorView& x, const TensorView& expert_ids);

  // Where outputs of this rank's experts go: [ranks * rows * top_k, hidden] f32, a row for every
  // choice of every rank, of which those count that are computed here.
  TensorView outputs() const { return Outputs(link_.slots().outputs_out); }
  // What came of it: by the rank that computed it, then by own choice.
  StatusOr<TensorView> Return();

 private:
  TensorView Outputs(std::byte* at) const;

  DeviceCollectives& link_;
  const ExchangeLimits limits_;
  const DeviceExchangeParts parts_;
  ExchangeStats& stats_;
  const int32_t ranks_, self_;
  int64_t rows_ = 0;
};

}  // namespace choir
