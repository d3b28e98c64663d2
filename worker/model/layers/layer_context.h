// What the layers of a model share: kernels, precision, the step that runs, scratch memory.
#pragma once

#include <cstdint>

#include "common/base/check.h"
#include "kernels/kernels.h"
#include "worker/device/device.h"
#include "worker/model/model.h"
#include "worker/model/step_inputs.h"
#include "worker/model/weights/model_weights.h"

namespace choir {

// Room for one set of rows in bf16, `pitch` elements apart: none where the kernels take f32.
struct RoundedRoom {
  uint16_t* data = nullptr;
  int64_t pitch = 0;
};

// One Forward call. `rows` may be 0.
struct StepContext {
  const ModelBatch& batch;
  const Stream& stream;
  ExpertExchange* exchange;
  StepViews inputs;
  int64_t rows;          // of the inputs
  int64_t keys_max = 0;  // of attention ops: > 0 in a step that is or may become a graph
  size_t moe_layer = 0;  // which of the layers with experts runs, or is next
  // Where its rows begin in scratch that two micro-batches share (ScratchRows::View).
  int64_t first_row = 0;
  RoundedRoom rounded;
};

// FP32 rows of one width in the device's memory, allocated once for the largest step and viewed for
// the present one.
class ScratchRows {
 public:
  ScratchRows() = default;
  static StatusOr<ScratchRows> Make(Device* device, int64_t rows_max, int64_t width) {
    ScratchRows s;
    CHOIR_ASSIGN_OR_RETURN(s.buffer_,
                           device->Allocate(static_cast<size_t>(rows_max * width) * sizeof(float)));
    s.rows_max_ = rows_max;
    s.width_ = width;
    return s;
  }
  int64_t width() const { return width_; }
  TensorView View(int64_t rows) const {
    CHOIR_CHECK(rows <= rows_max_);
    return TensorView(static_cast<void*>(buffer_.data()), DType::kF32, {rows, width_});
  }
  TensorView View(const StepContext& step) const {
    return View(step.first_row + step.rows).Rows(step.first_row, step.rows);
  }
  // The same memory as [rows, heads, width / heads].
  TensorView Heads(int64_t rows, int64_t heads) const {
    CHOIR_CHECK(rows <= rows_max_);
    return TensorView(static_cast<void*>(buffer_.data()), DType::kF32,
                      {rows, heads, width_ / heads});
  }

 private:
  DeviceBuffer buffer_;
  int64_t rows_max_ = 0;
  int64_t width_ = 0;
};

// A view of `t` that begins `elements` further on, with the shape given.
inline TensorView Offset(const TensorView& t, int64_t elements,
                         std::initializer_list<int64_t> shape) {
  return TensorView(static_cast<void*>(static_cast<std::byte*>(t.raw()) +
                                       static_cast<size_t>(elements) * SizeOf(t.dtype())),
                    t.dtype(), shape);
}

struct RopeTables {
  TensorView cos, sin;  // [positions, rotary_dim / 2]; filled as far as the step's positions reach
};

// Rows of a step as products take them. `rounded` holds until other rows are.
struct ProductInput {
  TensorView x;  // [rows, K] f32
  RoundedRows rounded;
};

// Where rows that products with w take are to be put, rounded for them; empty where those take f32.
inline RoundedRows RoundedFor(const TensorView& w, const KernelSet& kernels,
                              const StepContext& step, Compute compute) {
  if (step.rounded.data == nullptr || w.empty()) return {};
  const RowOrder order = kernels.OrderOfRows(w.dtype(), w.dim(1), compute);
  if (order == RowOrder::kNone || w.dim(1) > step.rounded.pitch) return {};
  return {step.rounded.data + step.first_row * step.rounded.pitch, step.rounded.pitch, order};
}

// y (+)= x · wᵀ + bias.
inline LinearArgs LinearOf(Compute compute, const LinearWeights& w, const ProductInput& x,
                           TensorView y, bool accumulate = false) {
  return {.x = x.x,
          .w = w.w,
          .w_scale = w.scale,
          .bias = w.bias,
          .y = y,
          .compute = compute,
          .accumulate = accumulate,
          .rounded = x.rounded};
}
inline void RunLinear(const KernelSet& kernels, const Stream& stream, Compute compute,
                      const LinearWeights& w, const ProductInput& x, TensorView y,
                      bool accumulate = false) {
  kernels.Linear(LinearOf(compute, w, x, y, accumulate), stream);
}

}  // namespace choir
