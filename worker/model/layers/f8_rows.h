// Rows of experts in f8 with a scale for each 128 columns (kernels/ops/grouped_gemm.h, QuantizeF8),
// packed so that they travel and are ordered like any rows of f32: hidden bytes, then the scales,
// each part from a word on, and all of it a multiple of 16 bytes. Experts compute with them as they
// are (kernels/ops/moe.h). Values of a row hang on that row only.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace choir {

class F8Rows {
 public:
  explicit F8Rows(int64_t hidden) : hidden_(hidden) {}

  int64_t width() const { return (ScalesAt() + Scales() + 3) / 4 * 4; }  // words of a row

  // x: [T, hidden] f32; packed: [T, width()] f32.
  void Quantize(const KernelSet& kernels, const TensorView& x, const TensorView& packed,
                const Stream& stream) const {
    kernels.QuantizeF8({.x = x,
                        .y = Values(packed),
                        .y_scale = ScalesOf(packed),
                        .y_stride = 4 * width(),
                        .y_scale_stride = width()},
                       stream);
  }
  // packed: [R, width()] f32. Sets x and all that belongs to it.
  void Open(const TensorView& packed, ExpertFfnArgs* args) const {
    args->x = Values(packed);
    args->x_scale = ScalesOf(packed);
    args->x_stride = 4 * width();
    args->x_scale_stride = width();
  }

 private:
  int64_t Scales() const { return (hidden_ + kF8Block - 1) / kF8Block; }
  int64_t ScalesAt() const { return (hidden_ + 3) / 4; }
  TensorView Values(const TensorView& packed) const {
    return TensorView(packed.raw(), DType::kF8E4M3, {packed.dim(0), hidden_});
  }
  TensorView ScalesOf(const TensorView& packed) const {
    auto* const first = static_cast<float*>(packed.raw());
    return TensorView(static_cast<void*>(first == nullptr ? nullptr : first + ScalesAt()),
                      DType::kF32, {packed.dim(0), Scales()});
  }

  int64_t hidden_;
};

}  // namespace choir
