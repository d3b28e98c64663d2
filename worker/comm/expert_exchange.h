// ExpertExchange: brings token rows to the ranks that hold their experts and the outputs back to
// the token's owner, where they are summed in ascending expert id (kernels/ops/moe.h Combine), so
// that the bits depend neither on the number of ranks nor on the placement. Built on Collectives;
// one per rank; owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/tensor/tensor_view.h"
#include "worker/comm/collectives.h"
#include "worker/comm/exchange_plan.h"
#include "worker/comm/expert_placement.h"

namespace choir {

class SlotExchange;

struct ExchangeStats {                             // since creation
  uint64_t dispatch_bytes = 0, combine_bytes = 0;  // that left this rank
  double dispatch_seconds = 0, combine_seconds = 0;
};

// What this rank has to compute. Valid until the next dispatch.
struct DispatchedRows {
  TensorView x;                  // [R, width] in the payload dtype, grouped by this rank's experts
  std::vector<int32_t> offsets;  // [this rank's experts + 1]
  std::span<const int32_t> experts;  // their ids: placement.ExpertsOf(rank), in its memory
};

class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  // What all ranks will dispatch in the layers that follow, by rank, where they know it: an
  // exchange may then do without asking. Empty: they do not.
  virtual void BeginStep(std::span<const int64_t> tokens) { (void)tokens; }

  // A layer is a dispatch, then a combine, in two parts each: between the parts rows may travel,
  // and what Begin was given stays as it is.
  // x: [T, width] f32, width at most `hidden` and the same on all ranks; expert_ids: [T, top_k]
  // i32, ascending in a row; T may be 0 (a helping rank). As kF32 rows may be any bytes. payload:
  // kF32, or kBF16 (rounded once, here: the same bits whether a row travels or not). `placement`:
  // of the layer, equal on all ranks; stays as it is until EndCombine returns.
  virtual Status BeginDispatch(const ExpertPlacement& placement, TensorView x,
                               TensorView expert_ids, DType payload) = 0;
  virtual StatusOr<DispatchedRows> EndDispatch() = 0;

  // expert_out: [R, hidden] f32 in the order of the last dispatch's rows.
  // y: [T * top_k, hidden] f32; row t * top_k + k is the output of expert_ids[t][k] for token t.
  virtual Status BeginCombine(TensorView expert_out, TensorView y) = 0;
  virtual Status EndCombine() = 0;

  StatusOr<DispatchedRows> Dispatch(const ExpertPlacement& placement, TensorView x,
                                    TensorView expert_ids, DType payload) {
    CHOIR_RETURN_IF_ERROR(BeginDispatch(placement, x, expert_ids, payload));
    return EndDispatch();
  }
  Status Combine(TensorView expert_out, TensorView y) {
    CHOIR_RETURN_IF_ERROR(BeginCombine(expert_out, y));
    return EndCombine();
  }

  // For this step, the same on all ranks: two exchanges for a micro-batch each, of which one
  // computes while the rows of the other travel. The first takes half of a rank's rows, rounded up;
  // what is begun first ends first. Empty: the step's rows go through this one.
  virtual std::span<ExpertExchange* const> MicroBatches() { return {}; }

  // For this step, the same on all ranks: its rows go in slots and the device plans by itself
  // (worker/model/slot_exchange.h). Null: the step's layers dispatch and combine here.
  virtual SlotExchange* InSlots() { return nullptr; }

  virtual const ExchangeStats& stats() const = 0;
};

// Columns of a dispatch's x, which may be empty altogether where there are no tokens.
int64_t WidthOf(const ExchangeLimits& limits, const TensorView& x);
// Preconditions of the two, for those who implement them. The first returns the number of tokens.
int64_t CheckDispatch(const ExchangeLimits& limits, const TensorView& x,
                      const TensorView& expert_ids, DType payload);
void CheckCombine(const ExchangeLimits& limits, const ExchangePlan& plan,
                  const TensorView& expert_out, const TensorView& y);

// Rows in the host's memory. `collectives` outlives the exchange.
std::unique_ptr<ExpertExchange> MakeExpertExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits);

}  // namespace choir
