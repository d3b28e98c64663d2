#include "worker/model/exchange_maker.h"

#include <algorithm>

#include "common/base/check.h"
#include "worker/model/device_exchange.h"
#include "worker/model/direct_exchange.h"

namespace choir {

namespace {

bool MayGoByDevice(const ExchangeSizes& sizes) {
  return sizes.num_ranks > 1 && sizes.path != RowPath::kHost;
}

StatusOr<std::unique_ptr<ExchangeRoom>> MakeRoom(Device* device, const ExchangeSizes& sizes,
                                                 const ExchangeLimits& limits) {
  const int64_t ranks = sizes.num_ranks;
  const auto tokens = static_cast<size_t>(limits.tokens_max);
  const auto top_k = static_cast<size_t>(limits.top_k);
  const size_t own_pairs = tokens * top_k;
  const size_t received_pairs =
      tokens * static_cast<size_t>(ranks * std::min<int64_t>(limits.top_k, sizes.expert_slots));
  const size_t rows = std::max({own_pairs, received_pairs, tokens * static_cast<size_t>(ranks)});
  const size_t row_bytes = static_cast<size_t>(limits.hidden) * sizeof(float);
  const bool by_host = ranks > 1 && sizes.path != RowPath::kDevice;
  const bool by_device = MayGoByDevice(sizes);
  const size_t message_bytes = by_host ? rows * (row_bytes + sizeof(ExchangePlan::Pair)) : 0;
  const size_t slot_ids = static_cast<size_t>(sizes.slot_rows * ranks) * top_k;
  auto room = std::make_unique<ExchangeRoom>();
  CHOIR_ASSIGN_OR_RETURN(room->gathered, device->Allocate(rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->grouped, device->Allocate(rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->received, device->Allocate(ranks == 1 ? 0 : rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->outbound, device->Allocate(by_device ? rows * row_bytes : 0));
  CHOIR_ASSIGN_OR_RETURN(room->ids,
                         device->AllocateHost(std::max(own_pairs, slot_ids) * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(room->send, device->AllocateHost(message_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->recv, device->AllocateHost(message_bytes));
  const size_t nobody = static_cast<size_t>(sizes.slot_output_rows) * top_k * sizeof(int32_t);
  CHOIR_ASSIGN_OR_RETURN(room->nobody, StagedBuffer::Make(device, nobody));
  // Between two waits gathers take own, sent and received rows at the most, scatters two of these.
  CHOIR_ASSIGN_OR_RETURN(room->index, StagedBuffer::Make(device, 3 * rows * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(room->slots, StagedBuffer::Make(device, 2 * rows * sizeof(int64_t)));
  CHOIR_ASSIGN_OR_RETURN(room->in_turn, StagedBuffer::Make(device, rows * sizeof(int64_t)));
  return room;
}

}  // namespace

StatusOr<ExchangeMaker> ExchangeMaker::Make(Device* device, const KernelSet* kernels,
                                            const ExchangeSizes& sizes,
                                            const ExchangeLimits& limits) {
  ExchangeMaker maker;
  maker.device_ = device;
  maker.kernels_ = kernels;
  const bool on_device = !device->ReadsHostMemory();
  maker.exchanges_ = sizes.num_experts > 0 && !(sizes.alone && on_device);
  maker.limits_ = limits;
  maker.path_ = sizes.path;
  if (!maker.exchanges_ || !on_device) return maker;
  const bool by_device = MayGoByDevice(sizes);
  ExchangeSizes room = sizes;
  room.slot_rows = by_device ? std::min(sizes.slot_rows, limits.tokens_max) : 0;
  maker.slot_rows_ = room.slot_rows;
  room.slot_output_rows = std::min(room.slot_rows, sizes.slot_output_rows);
  maker.slot_output_rows_ = room.slot_output_rows;
  CHOIR_ASSIGN_OR_RETURN(maker.room_, MakeRoom(device, room, limits));
  if (!by_device || sizes.micro_batch_rows == 0) return maker;
  maker.micro_batch_rows_ = sizes.micro_batch_rows;
  room.path = RowPath::kDevice;
  room.slot_rows = room.slot_output_rows = 0;
  CHOIR_ASSIGN_OR_RETURN(maker.second_room_, MakeRoom(device, room, SecondLimits(limits)));
  return maker;
}

std::unique_ptr<ExpertExchange> ExchangeMaker::ForEpoch(Collectives* collectives,
                                                        const Stream& stream) const {
  if (!exchanges_) return nullptr;
  if (room_ == nullptr) return MakeExpertExchange(collectives, limits_);
  const DeviceExchangeParts parts{.device = device_,
                                  .kernels = kernels_,
                                  .room = room_.get(),
                                  .stream = stream,
                                  .slot_rows = slot_rows_,
                                  .slot_output_rows = slot_output_rows_,
                                  .second_room = second_room_.get(),
                                  .micro_batch_rows = micro_batch_rows_};
  if (collectives->size() > 1 && collectives->device() != nullptr) {
    CHOIR_CHECK(path_ != RowPath::kHost);
    return MakeDirectExchange(collectives, limits_, parts);
  }
  CHOIR_CHECK(collectives->size() == 1 || path_ != RowPath::kDevice);
  return MakeDeviceExchange(collectives, limits_, parts);
}

}  // namespace choir
