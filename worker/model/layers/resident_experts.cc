#include "worker/model/layers/resident_experts.h"

#include <algorithm>
#include <cstring>

namespace choir {

StatusOr<ResidentExperts> ResidentExperts::Make(Device* device, const ModelConfig& config,
                                                int64_t rows_max, const ExpertCounts& counts) {
  ResidentExperts r;
  r.hidden_ = config.hidden;
  r.experts_ = config.moe->experts;
  r.counts_ = counts;
  const auto pairs = static_cast<size_t>(rows_max * config.moe->top_k);
  const size_t row_bytes = static_cast<size_t>(config.hidden) * sizeof(float);
  CHOIR_ASSIGN_OR_RETURN(r.grouped_, device->Allocate(pairs * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(r.row_of_, device->Allocate(pairs * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(r.offsets_,
                         device->Allocate(static_cast<size_t>(r.experts_ + 1) * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(r.counted_, StagedBuffer::Make(device, r.CountBytes()));
  return r;
}

void ResidentExperts::Prepare() {
  if (prepared_) return;
  std::memset(counted_.host(), 0, CountBytes());
  counted_.Upload(0, CountBytes());
  prepared_ = true;
}

ResidentRows ResidentExperts::Order(const KernelSet& kernels, const StepContext& step, TensorView x,
                                    int64_t x_stride, TensorView expert_ids, DType payload) const {
  const int64_t pairs = expert_ids.num_elements();
  CHOIR_CHECK(prepared_ && static_cast<size_t>(pairs) * sizeof(int32_t) <= row_of_.size());
  CHOIR_CHECK(x.dim(1) <= hidden_);
  auto* counted = reinterpret_cast<int64_t*>(counted_.device()) +
                  static_cast<int64_t>(step.moe_layer) * experts_;
  ResidentRows rows;
  rows.x = TensorView(static_cast<void*>(grouped_.data()), payload, {pairs, x.dim(1)});
  rows.offsets = {nullptr, static_cast<size_t>(experts_ + 1),
                  reinterpret_cast<const int32_t*>(offsets_.data())};
  rows.row_of = TensorView(static_cast<void*>(row_of_.data()), DType::kI32, {pairs});
  kernels.Permute(
      {.x = x,
       .x_stride = x_stride,
       .expert_ids = expert_ids,
       .offsets = TensorView(static_cast<void*>(offsets_.data()), DType::kI32, {experts_ + 1}),
       .row_of = rows.row_of,
       .counts = TensorView(static_cast<void*>(counted), DType::kI64, {experts_}),
       .y = rows.x},
      step.stream);
  return rows;
}

void ResidentExperts::DownloadCounts() { counted_.Download(0, CountBytes()); }

const ExpertCounts& ResidentExperts::counts() const {
  const auto* counted = reinterpret_cast<const int64_t*>(counted_.host());
  if (prepared_) std::copy_n(counted, counts_.rows.size(), counts_.rows.begin());
  return counts_;
}

}  // namespace choir
