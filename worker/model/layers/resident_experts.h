// Rows of experts of a rank that has all of them, on a device: kernels order the rows by expert and
// count them, so the host never learns who chose what, and a step waits for nothing. One object
// serves all layers of a model; owner thread only.
#pragma once

#include <cstdint>

#include "worker/model/config/model_config.h"
#include "worker/model/layers/layer_context.h"

namespace choir {

// Of one layer, until the next Order. All on the device.
struct ResidentRows {
  TensorView x;             // [T * top_k, width]: by expert; the last ones may be nobody's
  Staged<int32_t> offsets;  // [experts + 1]: rows of expert e are offsets[e] .. offsets[e + 1]
  TensorView row_of;        // [T * top_k] i32: of each pair (token, choice); -1: of padding
};

class ResidentExperts {
 public:
  // counts: the shape of what is to be counted.
  static StatusOr<ResidentExperts> Make(Device* device, const ModelConfig& config, int64_t rows_max,
                                        const ExpertCounts& counts);

  // Before the first step: brings counts of zero to the device.
  void Prepare();
  // x: [T, width] f32, width at most `hidden`, rows x_stride apart (0: width); expert_ids: [T,
  // top_k] i32. `payload`: as ExpertExchange::Dispatch has it.
  ResidentRows Order(const KernelSet& kernels, const StepContext& step, TensorView x,
                     int64_t x_stride, TensorView expert_ids, DType payload) const;
  // Enqueues; counts() has them once the device was waited for.
  void DownloadCounts();
  const ExpertCounts& counts() const;

 private:
  ResidentExperts() = default;
  size_t CountBytes() const { return counts_.rows.size() * sizeof(int64_t); }

  int64_t hidden_ = 0, experts_ = 0;
  DeviceBuffer grouped_, row_of_, offsets_;
  StagedBuffer counted_;  // [layers, experts] i64
  bool prepared_ = false;
  mutable ExpertCounts counts_;  // taken from counted_ when somebody asks
};

}  // namespace choir
