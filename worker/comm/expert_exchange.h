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

struct ExchangeStats {                             // since creation
  uint64_t dispatch_bytes = 0, combine_bytes = 0;  // that left this rank
  double dispatch_seconds = 0, combine_seconds = 0;
};

// What this rank has to compute. Valid until the next Dispatch.
struct DispatchedRows {
  TensorView x;                  // [R, hidden] in the payload dtype, grouped by this rank's experts
  std::vector<int32_t> offsets;  // [this rank's experts + 1]
  std::span<const int32_t> experts;  // their ids: placement.ExpertsOf(rank), in its memory
};

class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  // x: [T, hidden] f32; expert_ids: [T, top_k] i32, ascending in a row; T may be 0 (a helping
  // rank). payload: kF32, or kBF16 (rounded once, here: the same bits whether a row travels or
  // not). `placement`: of the layer, equal on all ranks; stays as it is until Combine returns.
  virtual StatusOr<DispatchedRows> Dispatch(const ExpertPlacement& placement, TensorView x,
                                            TensorView expert_ids, DType payload) = 0;

  // expert_out: [R, hidden] f32 in the order of the last Dispatch's rows.
  // y: [T * top_k, hidden] f32; row t * top_k + k is the output of expert_ids[t][k] for token t.
  virtual Status Combine(TensorView expert_out, TensorView y) = 0;

  virtual const ExchangeStats& stats() const = 0;
};

// Preconditions of the two, for those who implement them. The first returns the number of tokens.
int64_t CheckDispatch(const ExchangeLimits& limits, const TensorView& x,
                      const TensorView& expert_ids, DType payload);
void CheckCombine(const ExchangeLimits& limits, const ExchangePlan& plan,
                  const TensorView& expert_out, const TensorView& y);

// Rows in the host's memory. `collectives` outlives the exchange.
std::unique_ptr<ExpertExchange> MakeExpertExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits);

}  // namespace choir
