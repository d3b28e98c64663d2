// Linear and HeadProject.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {
namespace {

struct LinearPlan {
  int64_t panel = 0;  // rows of w in a task
  int64_t panels = 0;
  int64_t row_block = 0;  // rows of x in a task
  int64_t row_blocks = 0;
};

// Panels of w that fit the L2 cache, but at least four a thread where w is small; only when w has
// too few rows for that are the rows of x divided as well, since each block of them reads w again.
LinearPlan PlanLinear(const LinearArgs& a, int64_t rows, int threads) {
  const int64_t outputs = a.w.dim(0);
  const int64_t row_bytes = BytesOf(a.w.dtype(), a.w.dim(1));
  const int64_t fitting = kPanelBytes / row_bytes / 4 * 4;
  const int64_t even = RoundUp(CeilDiv(outputs, 4 * threads), 4);
  LinearPlan plan;
  plan.panel = std::max<int64_t>(4, std::min(fitting, even));
  plan.panels = CeilDiv(outputs, plan.panel);
  const int64_t wanted = CeilDiv(2 * threads, plan.panels);
  plan.row_block = std::max<int64_t>(std::min<int64_t>(rows, 24), CeilDiv(rows, wanted));
  plan.row_blocks = CeilDiv(rows, plan.row_block);
  return plan;
}

// Rows of x as the product takes them.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
  int64_t rows = 0;
};

void LinearRows(const Micro& micro, const LinearArgs& a, const Operand& x, float* y,
                float* unpacked, const Stream& stream) {
  const Matrix w(a.w, a.w_scale);
  const int64_t rows = x.rows;
  const int64_t x_size = static_cast<int64_t>(SizeOf(x.dtype));
  const auto dot = micro.dot[x.dtype == DType::kBF16][w.format];
  const LinearPlan plan = PlanLinear(a, rows, TeamSize(stream));
  const int64_t ns = ForecastNs(w.rows * w.row_bytes(), rows * w.rows * w.width);
  ForTasks(stream, plan.panels * plan.row_blocks, ns, [&](int64_t task, int thread) {
    const int64_t output = task / plan.row_blocks * plan.panel;
    const int64_t row = task % plan.row_blocks * plan.row_block;
    DotTile tile{
        .x = static_cast<const char*>(x.data) + row * x.stride * x_size,
        .x_stride = x.stride,
        .rows = std::min(plan.row_block, rows - row),
        .y = y + row * w.rows + output,
        .y_stride = w.rows,
        .accumulate = a.accumulate,
        .prefetch = true,
    };
    w.Give(output, std::min(plan.panel, w.rows - output), &tile);
    if (w.packed()) tile.unpacked = unpacked + thread * UnpackedBytes(w.width) / 4;
    dot(tile);
    for (int64_t r = 0; r < tile.rows; ++r) {
      AddBias(a.bias, output, tile.outputs, tile.y + r * tile.y_stride);
    }
  });
}

}  // namespace

void CpuKernels::Linear(const LinearArgs& a, const Stream& stream) const {
  const int64_t rows = a.x.dim(0);
  const int64_t outputs = a.w.dim(0);
  const int64_t width = a.w.dim(1);
  CHOIR_CHECK(a.x.dtype() == DType::kF32 && a.y.dtype() == DType::kF32);
  CHOIR_CHECK(a.x.dim(1) == width && a.y.dim(0) == rows && a.y.dim(1) == outputs && width > 0);
  if (rows == 0) return;
  Scratch scratch(stream);
  float* unpacked = nullptr;
  if (FormatOf(a.w.dtype()) >= kPlainFormats) {
    unpacked = scratch.Take<float>(TeamSize(stream) * UnpackedBytes(width) / 4);
  }
  if (a.compute == Compute::kF32) {
    LinearRows(micro_, a, {a.x.raw(), DType::kF32, width, rows}, a.y.f32(), unpacked, stream);
    return;
  }
  const int64_t stride = Bf16Stride(width);
  const int64_t fitting = static_cast<int64_t>(scratch.left()) / (2 * stride);
  CHOIR_CHECK(fitting > 0);
  const int64_t chunk = std::max<int64_t>(1, std::min({rows, kRoundedRows, fitting}));
  bf16* rounded = scratch.Take<bf16>(chunk * stride);
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    RoundRows(micro_, a.x.f32() + row * width, width, count, rounded, stream);
    LinearRows(micro_, a, {rounded, DType::kBF16, stride, count}, a.y.f32() + row * outputs,
               unpacked, stream);
  }
}

void CpuKernels::HeadProject(const HeadProjectArgs& a, const Stream& stream) const {
  const int64_t tokens = a.x.dim(0);
  const int64_t heads = a.x.dim(1);
  const int64_t from = a.x.dim(2);
  const int64_t to = a.y.dim(2);
  CHOIR_CHECK(a.y.dim(0) == tokens && a.y.dim(1) == heads);
  const int64_t head_stride = a.x_head_stride != 0 ? a.x_head_stride : from;
  const int64_t token_stride = a.x_token_stride != 0 ? a.x_token_stride : heads * from;
  const Format format = FormatOf(a.w.dtype());
  CHOIR_CHECK(format < kPlainFormats);
  const bool round = a.compute == Compute::kBF16;
  const int64_t w_size = static_cast<int64_t>(SizeOf(a.w.dtype()));
  Scratch scratch(stream);
  bf16* rounded_all = round ? scratch.Take<bf16>(TeamSize(stream) * kExpertRows * from) : nullptr;
  float* widened_all = round ? scratch.Take<float>(TeamSize(stream) * kExpertRows * from) : nullptr;

  const int64_t blocks = CeilDiv(tokens, kExpertRows);
  const int64_t ns = ForecastNs(heads * from * to * w_size, tokens * heads * from * to);
  ForTasks(stream, heads * blocks, ns, [&](int64_t task, int thread) {
    const int64_t head = task / blocks;
    const int64_t token = task % blocks * kExpertRows;
    const int64_t count = std::min(kExpertRows, tokens - token);
    const float* x = a.x.f32() + token * token_stride + head * head_stride;
    int64_t x_stride = token_stride;
    bf16* rounded = round ? rounded_all + thread * kExpertRows * from : nullptr;
    if (round) {
      float* widened = widened_all + thread * kExpertRows * from;
      for (int64_t t = 0; t < count; ++t) {
        micro_.round_bf16(x + t * token_stride, rounded + t * from, from);
      }
      for (int64_t i = 0; i < count * from; ++i) widened[i] = ToF32(rounded[i]);
      x = widened;
      x_stride = from;
    }
    const char* w = static_cast<const char*>(a.w.raw()) + head * a.w_head_stride * w_size;
    float* y = a.y.f32() + (token * heads + head) * to;
    const int64_t y_stride = heads * to;
    if (a.transpose) {
      micro_.dot[round][format]({.x = round ? static_cast<const void*>(rounded) : x,
                                 .x_stride = x_stride,
                                 .rows = count,
                                 .w = w,
                                 .w_stride = from,
                                 .outputs = to,
                                 .width = from,
                                 .y = y,
                                 .y_stride = y_stride,
                                 .prefetch = true});
      return;
    }
    for (int64_t t = 0; t < count; ++t) std::fill_n(y + t * y_stride, to, 0.0f);
    constexpr int64_t kStep = 16;  // rows of w a pass: its columns come back to them while in L1
    for (int64_t i = 0; i < from; i += kStep) {
      micro_.weighted[format]({.p = x + i,
                               .p_stride = x_stride,
                               .rows = count,
                               .v = w + i * to * w_size,
                               .v_stride = to,
                               .count = std::min(kStep, from - i),
                               .out = y,
                               .out_stride = y_stride,
                               .width = to});
    }
  });
}

}  // namespace choir::cpu
