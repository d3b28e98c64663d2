// Makes a rank's expert exchange for each epoch: in the host's memory where kernels read it, else
// with the rows in the device's memory, gathered and scattered there by kernels. Only choices of
// experts and rows for other ranks come to the host then. What such exchanges need is allocated
// once, with the maker; one exchange at a time. Owned by the engine or the runner, outlives its
// exchanges; owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "worker/comm/expert_exchange.h"
#include "worker/device/device.h"

namespace choir {

// Memory of exchanges on a device. Rows have `hidden` f32 at most.
struct ExchangeRoom {
  DeviceBuffer gathered;         // [rows_max] f32: rows in the order they were asked for
  DeviceBuffer grouped;          // [rows_max]: what Dispatch returns
  DeviceBuffer received;         // [rows_max]: rows of other ranks, as they came
  DeviceBuffer ids;              // host: [tokens_max, top_k] i32
  DeviceBuffer send, recv;       // host: messages
  StagedBuffer index;            // i32, of gathers
  std::vector<int64_t> in_turn;  // 0, 1, 2, ...
};

struct ExchangeSizes {
  int32_t num_experts = 0;
  int32_t num_ranks = 1;
  int32_t expert_slots = 0;  // experts of a layer that a rank may hold
};

class ExchangeMaker {
 public:
  ExchangeMaker() = default;  // of a model without experts
  // `kernels` and `device` outlive the maker; `device` is where the model's rows are.
  static StatusOr<ExchangeMaker> Make(Device* device, const KernelSet* kernels,
                                      const ExchangeSizes& sizes, const ExchangeLimits& limits);

  // Null for a model without experts. `collectives` outlives the exchange.
  std::unique_ptr<ExpertExchange> ForEpoch(Collectives* collectives, const Stream& stream) const;

 private:
  Device* device_ = nullptr;
  const KernelSet* kernels_ = nullptr;
  bool has_experts_ = false;
  ExchangeLimits limits_;
  std::unique_ptr<ExchangeRoom> room_;  // null: in the host's memory
};

}  // namespace choir
