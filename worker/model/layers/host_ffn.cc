#include "worker/model/layers/host_ffn.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/tensor/small_floats.h"

namespace choir {

StatusOr<HostFfn> HostFfn::Make(Device* device, const KernelSet* kernels,
                                const HostFfnSizes& sizes) {
  HostFfn f;
  f.device_ = device;
  f.kernels_ = kernels;
  f.sizes_ = sizes;
  const auto rows = static_cast<size_t>(sizes.rows_max);
  const size_t row_bytes = static_cast<size_t>(sizes.hidden) * sizeof(float);
  CHOIR_ASSIGN_OR_RETURN(f.lane_, device->MakeLane());
  CHOIR_ASSIGN_OR_RETURN(f.x_, device->AllocateHost(rows * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(f.y_, device->AllocateHost(rows * row_bytes));
  if (sizes.f8_rows) {
    CHOIR_ASSIGN_OR_RETURN(f.widened_, HostBuffer::Make(rows * row_bytes / 2));
  }
  CHOIR_ASSIGN_OR_RETURN(f.scratch_,
                         HostBuffer::Make(rows * static_cast<size_t>(sizes.width) * sizeof(float)));
  const KernelLimits limits{.rows_max = sizes.rows_max,
                            .columns_max = std::max(sizes.hidden, sizes.width),
                            .positions_max = 1,
                            .heads_max = 1};
  CHOIR_ASSIGN_OR_RETURN(f.workspace_,
                         HostBuffer::Make(kernels->WorkspaceBytes(limits, sizes.num_threads)));
  return f;
}

Status HostFfn::Run(const KernelSet& kernels, const ExpertFfnArgs& all, size_t device_experts,
                    const Stream& stream) {
  CHOIR_CHECK(device_experts <= all.experts.size());
  const int64_t first = all.offsets[device_experts], end = all.offsets.back();
  // The lane begins before the device's experts do, so that it does not wait for them.
  if (end > first) lane_->Begin();
  if (first > 0) {
    ExpertFfnArgs own = all;
    own.x = all.x.Rows(0, first);
    if (all.has_f8_rows()) own.x_scale = all.x_scale.Rows(0, first);
    own.y = all.y.Rows(0, first);
    own.scratch = all.scratch.Rows(0, first);
    own.offsets = {all.offsets.host, device_experts + 1, all.offsets.device};
    own.experts = {all.experts.host, device_experts, all.experts.device};
    kernels.ExpertFfn(own, stream);
  }
  for (int64_t row = first; row < end; row += sizes_.rows_max) {
    CHOIR_RETURN_IF_ERROR(
        RunRows(all, device_experts, row, std::min(sizes_.rows_max, end - row), stream));
  }
  if (end > first) lane_->Join();
  return {};
}

// Of `count` rows in f8 that came down as they lie on the device, scales in each row.
void HostFfn::Widen(const ExpertFfnArgs& all, int64_t count) {
  const auto* const row0 = reinterpret_cast<const uint8_t*>(x_.data());
  const auto scales_at =
      static_cast<const std::byte*>(all.x_scale.raw()) - static_cast<const std::byte*>(all.x.raw());
  auto* to = reinterpret_cast<bf16*>(widened_.data());
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* const row = row0 + r * all.x_stride;
    const auto* const scales = reinterpret_cast<const float*>(row + scales_at);
    for (int64_t k = 0; k < sizes_.hidden; ++k) {
      *to++ = ToBF16(F8ToF32(row[k]) * scales[k / kF8Block]);
    }
  }
}

// The next rows come down only after these went up: the buffers are free again.
Status HostFfn::RunRows(const ExpertFfnArgs& all, size_t device_experts, int64_t first,
                        int64_t count, const Stream& stream) {
  const bool f8 = all.has_f8_rows();
  CHOIR_CHECK(!f8 || sizes_.f8_rows);
  const int64_t row_bytes = f8 ? all.x_stride : BytesOf(all.x.dtype(), sizes_.hidden);
  const TensorView y = all.y.Rows(first, count);
  CHOIR_CHECK(static_cast<size_t>(count * row_bytes) <= x_.size());
  lane_->Copy(x_.data(), static_cast<const std::byte*>(all.x.raw()) + first * row_bytes,
              static_cast<size_t>(count * row_bytes));
  if (Status status = lane_->Wait(); !status.ok()) {
    (void)device_->Wait();  // which then knows it, too
    return status;
  }
  offsets_.clear();
  for (size_t e = device_experts; e < all.offsets.size(); ++e) {
    const int64_t offset = std::clamp<int64_t>(all.offsets[e] - first, 0, count);
    offsets_.push_back(static_cast<int32_t>(offset));
  }
  ExpertFfnArgs part = all;
  part.x_scale = {};
  part.x_stride = part.x_scale_stride = 0;
  if (f8) Widen(all, count);
  part.x = TensorView(static_cast<const void*>(f8 ? widened_.data() : x_.data()),
                      f8 ? DType::kBF16 : all.x.dtype(), {count, sizes_.hidden});
  part.y = TensorView(static_cast<void*>(y_.data()), DType::kF32, {count, sizes_.hidden});
  part.scratch =
      TensorView(static_cast<void*>(scratch_.data()), DType::kF32, {count, sizes_.width});
  part.offsets = offsets_;
  part.experts = all.experts.values().subspan(device_experts);
  kernels_->ExpertFfn(part,
                      {.team = stream.team, .workspace = {workspace_.data(), workspace_.size()}});
  lane_->Copy(y.raw(), y_.data(), y.num_bytes());
  return {};
}

}  // namespace choir
