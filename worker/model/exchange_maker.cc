#include "worker/model/exchange_maker.h"

#include <algorithm>
#include <numeric>

#include "worker/model/device_exchange.h"

namespace choir {

StatusOr<ExchangeMaker> ExchangeMaker::Make(Device* device, const KernelSet* kernels,
                                            const ExchangeSizes& sizes,
                                            const ExchangeLimits& limits) {
  ExchangeMaker maker;
  maker.device_ = device;
  maker.kernels_ = kernels;
  maker.has_experts_ = sizes.num_experts > 0;
  maker.limits_ = limits;
  if (!maker.has_experts_ || device->ReadsHostMemory()) return maker;
  const int64_t ranks = sizes.num_ranks;
  const auto tokens = static_cast<size_t>(limits.tokens_max);
  const auto top_k = static_cast<size_t>(limits.top_k);
  const size_t own_pairs = tokens * top_k;
  const size_t received_pairs =
      tokens * static_cast<size_t>(ranks * std::min<int64_t>(limits.top_k, sizes.expert_slots));
  const size_t rows = std::max({own_pairs, received_pairs, tokens * static_cast<size_t>(ranks)});
  const size_t row_bytes = static_cast<size_t>(limits.hidden) * sizeof(float);
  const size_t message_bytes = ranks == 1 ? 0 : rows * (row_bytes + sizeof(ExchangePlan::Pair));
  auto room = std::make_unique<ExchangeRoom>();
  CHOIR_ASSIGN_OR_RETURN(room->gathered, device->Allocate(rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->grouped, device->Allocate(rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->received, device->Allocate(ranks == 1 ? 0 : rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->ids, device->AllocateHost(own_pairs * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(room->send, device->AllocateHost(message_bytes));
  CHOIR_ASSIGN_OR_RETURN(room->recv, device->AllocateHost(message_bytes));
  // Between two waits there are three gathers at most.
  CHOIR_ASSIGN_OR_RETURN(room->index, StagedBuffer::Make(device, 3 * rows * sizeof(int32_t)));
  room->in_turn.resize(rows);
  std::iota(room->in_turn.begin(), room->in_turn.end(), int64_t{0});
  maker.room_ = std::move(room);
  return maker;
}

std::unique_ptr<ExpertExchange> ExchangeMaker::ForEpoch(Collectives* collectives,
                                                        const Stream& stream) const {
  if (!has_experts_) return nullptr;
  if (room_ == nullptr) return MakeExpertExchange(collectives, limits_);
  return MakeDeviceExchange(
      collectives, limits_,
      {.device = device_, .kernels = kernels_, .room = room_.get(), .stream = stream});
}

}  // namespace choir
