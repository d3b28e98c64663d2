// Makes a rank's expert exchange for each epoch: in the host's memory where kernels read it, else
// with the rows in the device's memory, gathered and scattered there by kernels. Choices of experts
// come to the host then; rows for other ranks come there, too, or go from device to device, as the
// epoch's collectives can. A rank alone on a device needs none: its layers order the rows there
// (layers/resident_experts.h). What such exchanges need is allocated once, with the maker; one
// exchange at a time. Owned by the engine or the runner, outlives its
// exchanges; owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "worker/comm/device_collectives.h"
#include "worker/comm/expert_exchange.h"
#include "worker/device/device.h"

namespace choir {

// Memory of exchanges on a device. Rows have `hidden` f32 at most.
struct ExchangeRoom {
  DeviceBuffer gathered;    // [rows_max] f32: rows in the order they were asked for
  DeviceBuffer grouped;     // [rows_max]: what Dispatch returns
  DeviceBuffer received;    // [rows_max]: rows of other ranks, as they came
  DeviceBuffer outbound;    // [rows_max]: rows for other ranks; only where they go by device
  DeviceBuffer ids;         // host: [tokens_max, top_k] i32, or those of all
  DeviceBuffer send, recv;  // host: messages; only where rows go by the hosts
  StagedBuffer index;       // i32, of gathers
  StagedBuffer slots;       // i64, of scatters
  StagedBuffer in_turn;     // i64: 0, 1, 2, ... of rows_max
  StagedBuffer nobody;      // i32: -1, choices of a slot's unused rows
};

struct DeviceExchangeParts {
  Device* device = nullptr;
  const KernelSet* kernels = nullptr;
  const ExchangeRoom* room = nullptr;
  Stream stream;
  int64_t slot_rows = 0, slot_output_rows = 0;
  const ExchangeRoom* second_room = nullptr;  // of a second micro-batch; null: there is none
  int64_t micro_batch_rows = 0;
};

struct ExchangeSizes {
  int32_t num_experts = 0;
  int32_t num_ranks = 1;
  int32_t expert_slots = 0;  // experts of a layer that a rank may hold
  RowPath path = RowPath::kHost;
  bool alone = false;  // ModelLimits::alone
  // Rows go in equal slots where no rank has more in a step; see DirectExchange. 0: never.
  int64_t slot_rows = 0;
  // Where no rank has more, outputs return in equal parts, too (slot_exchange.h); at most
  // slot_rows.
  int64_t slot_output_rows = 0;
  // Steps in which a rank has so many are computed as two micro-batches where rows go from device
  // to device; takes half as much room again. 0: none.
  int64_t micro_batch_rows = 0;
};

class ExchangeMaker {
 public:
  ExchangeMaker() = default;  // of a model without experts
  // `kernels` and `device` outlive the maker; `device` is where the model's rows are.
  static StatusOr<ExchangeMaker> Make(Device* device, const KernelSet* kernels,
                                      const ExchangeSizes& sizes, const ExchangeLimits& limits);

  // Null for a model without experts, and for a rank alone on a device. `collectives` outlives the
  // exchange. REQUIRES: rows go by a path that the maker was made for.
  std::unique_ptr<ExpertExchange> ForEpoch(Collectives* collectives, const Stream& stream) const;

 private:
  Device* device_ = nullptr;
  const KernelSet* kernels_ = nullptr;
  bool exchanges_ = false;
  ExchangeLimits limits_;
  RowPath path_ = RowPath::kHost;
  int64_t slot_rows_ = 0, slot_output_rows_ = 0;
  int64_t micro_batch_rows_ = 0;
  std::unique_ptr<ExchangeRoom> room_;         // null: in the host's memory
  std::unique_ptr<ExchangeRoom> second_room_;  // null: no second micro-batch
};

}  // namespace choir
