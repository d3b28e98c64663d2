#include "worker/model/slot_exchange.h"

#include <cstring>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "worker/model/slot_sizes.h"

namespace choir {

SlotExchange::SlotExchange(const Collectives& collectives, DeviceCollectives* link,
                           const ExchangeLimits& limits, const DeviceExchangeParts& parts,
                           ExchangeStats* stats)
    : link_(*link),
      limits_(limits),
      parts_(parts),
      stats_(*stats),
      ranks_(collectives.size()),
      self_(collectives.rank()) {
  const StagedBuffer& nobody = parts.room->nobody;
  if (nobody.bytes() == 0) return;
  std::memset(nobody.host(), 0xff, nobody.bytes());  // -1
  nobody.Upload(0, nobody.bytes());
}

StatusOr<GatheredRows> SlotExchange::Gather(const TensorView& x, const TensorView& expert_ids) {
  const MonoTime start = Clock::Real().Now();
  const int64_t own = CheckDispatch(limits_, x, expert_ids, DType::kF32);
  const int64_t width = WidthOf(limits_, x);
  CHOIR_CHECK(own <= rows_);
  const size_t ids_bytes = static_cast<size_t>(rows_ * limits_.top_k) * sizeof(int32_t);
  const size_t row_bytes = static_cast<size_t>(rows_ * width) * sizeof(float);
  const SlotParts parts = SlotPartsIn(link_.slots(), ranks_, ids_bytes, row_bytes);
  const size_t own_ids = static_cast<size_t>(own * limits_.top_k) * sizeof(int32_t);
  CHOIR_CHECK(ids_bytes - own_ids <= parts_.room->nobody.bytes());
  if (own > 0) {
    parts_.device->Copy(parts.ids.own, expert_ids.raw(), own_ids);
    parts_.device->Copy(parts.rows.own, x.raw(), x.num_bytes());
  }
  parts_.device->Copy(parts.ids.own + own_ids, parts_.room->nobody.device(), ids_bytes - own_ids);
  void* const stream = parts_.stream.native;
  CHOIR_RETURN_IF_ERROR(link_.BeginSlots("dispatch", parts.posts(), stream));
  CHOIR_RETURN_IF_ERROR(link_.End(stream));
  stats_.dispatch_bytes += static_cast<uint64_t>(ranks_ - 1) * parts.bytes();
  stats_.dispatch_seconds += Seconds(Clock::Real().Now() - start);
  return GatheredRows{
      TensorView(static_cast<void*>(parts.rows.all), DType::kF32, {ranks_ * rows_, width}),
      TensorView(static_cast<void*>(parts.ids.all), DType::kI32, {ranks_ * rows_, limits_.top_k})};
}

StatusOr<TensorView> SlotExchange::Return() {
  const MonoTime start = Clock::Real().Now();
  const size_t bytes = outputs().num_bytes() / static_cast<size_t>(ranks_);
  void* const stream = parts_.stream.native;
  CHOIR_RETURN_IF_ERROR(link_.BeginOutputs("combine", bytes, stream));
  CHOIR_RETURN_IF_ERROR(link_.End(stream));
  stats_.combine_bytes += static_cast<uint64_t>(ranks_ - 1) * bytes;
  stats_.combine_seconds += Seconds(Clock::Real().Now() - start);
  return Outputs(link_.slots().outputs_in);
}

TensorView SlotExchange::Outputs(std::byte* at) const {
  return TensorView(static_cast<void*>(at), DType::kF32,
                    {ranks_ * rows_ * limits_.top_k, limits_.hidden});
}

}  // namespace choir
