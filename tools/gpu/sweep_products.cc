// linear, head_project, grouped_gemm at random shapes.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "kernels/ops/grouped_gemm.h"
#include "tools/gpu/sweep_cases.h"
#include "tools/gpu/sweep_matrices.h"

namespace choir::gpu {
namespace {

int64_t Width(Draw& draw, DType dtype) {
  const int64_t width = draw.Coin()
                            ? 32 * draw.Int(1, std::max<int64_t>(draw.sizes().width_max / 32, 1))
                            : draw.Size(draw.sizes().width_max);
  return dtype == DType::kF4E2M1 ? std::max<int64_t>(width / 32, 1) * 32 : width;
}

SweepCase Linear(Draw& draw) {
  const DType dtype = AnyFormat(draw);
  const int64_t rows = draw.Size(draw.sizes().rows_max);
  const int64_t outputs = draw.Size(draw.sizes().outputs_max), width = Width(draw, dtype);
  const Draw::Values x = draw.Make(DType::kF32, {rows, width});
  const Matrix w = MakeMatrix(draw, dtype, outputs, width);
  LinearArgs args{.x = x.view,
                  .w = w.w,
                  .w_scale = w.scale,
                  .bias = draw.Coin() ? draw.Make(DType::kF32, {outputs}).view : TensorView(),
                  .y = draw.Space(DType::kF32, {rows, outputs}),
                  .compute = draw.Coin() ? Compute::kBF16 : Compute::kF32};
  args.accumulate = draw.Int(0, 3) == 0;
  SweepCase c =
      CaseOf("linear",
             fmt::format("{} x {} -> {}, {}, {}{}{}", rows, width, outputs, NameOf(dtype),
                         args.compute == Compute::kBF16 ? "bf16" : "f32",
                         args.bias.empty() ? "" : ", bias", args.accumulate ? ", accumulates" : ""),
             args, &cuda::KernelTable::linear);
  // Rounding x to bf16 makes a norm larger by 2^-9 at the most.
  c.outputs.push_back({.name = "y",
                       .at = args.y,
                       .before = {},
                       .bound = [norms = NormsOf(x, width, 1.01), most = w.most, outputs, width](
                                    int64_t i, double) {
                         return SumBound(width, norms[static_cast<size_t>(i / outputs)] * most) +
                                1e-6;
                       }});
  if (args.accumulate) {
    c.outputs[0].before.assign(args.y.num_bytes(), std::byte{0x3d});
    return c;
  }
  c.row = draw.Int(0, rows - 1);
  c.alone = [args, row = c.row](const cuda::KernelTable& table, const cuda::KernelStream& stream,
                                const TensorView& to) {
    LinearArgs one = args;
    one.x = args.x.Rows(row, 1);
    one.y = to;
    table.linear(one, stream);
  };
  return c;
}

// Every other case has a shape of the kernel on tensor cores: multiples of 8, and x beside q's rope
// columns, as MLA has it.
SweepCase HeadProject(Draw& draw) {
  const bool aligned = draw.Coin();
  const auto size = [&](int64_t most) {
    return aligned ? (draw.Size(most) + 7) / 8 * 8 : draw.Size(most);
  };
  const int64_t rows = draw.Size(draw.sizes().rows_max / 4 + 1);
  const int64_t heads = draw.Size(draw.sizes().heads_max);
  const int64_t in = size(draw.sizes().width_max / 8 + 1);
  const int64_t out = size(draw.sizes().outputs_max / 4 + 1);
  const int64_t pitch = in + (aligned ? 4 * draw.Int(0, 16) : draw.Int(0, 3));
  const DType dtype = aligned || draw.Coin() ? DType::kBF16 : DType::kF32;
  const bool transpose = draw.Coin();
  const Draw::Values x = draw.Make(DType::kF32, {rows, heads, pitch});
  const Draw::Values w = draw.Make(dtype, {heads * in, out});
  const HeadProjectArgs args{
      .x = TensorView(x.view.raw(), DType::kF32, {rows, heads, in}),
      .x_token_stride = heads * pitch,
      .x_head_stride = pitch,
      .w = TensorView(w.view.raw(), dtype, {transpose ? out : in, transpose ? in : out}),
      .w_head_stride = in * out,
      .transpose = transpose,
      .y = draw.Space(DType::kF32, {rows, heads, out}),
      .compute = aligned || draw.Coin() ? Compute::kBF16 : Compute::kF32};
  SweepCase c =
      CaseOf("head_project",
             fmt::format("{} x {} heads, {} of {} -> {}, {}, {}{}", rows, heads, in, pitch, out,
                         NameOf(dtype), args.compute == Compute::kBF16 ? "bf16" : "f32",
                         transpose ? ", transposed" : ""),
             args, &cuda::KernelTable::head_project);
  c.outputs.push_back({.name = "y",
                       .at = args.y,
                       .before = {},
                       .bound = [norms = NormsOf(x, pitch, 1.01), in, out](int64_t i, double) {
                         const double w_norm = std::sqrt(static_cast<double>(in));
                         return SumBound(in, norms[static_cast<size_t>(i / out)] * w_norm) + 1e-6;
                       }});
  c.row = draw.Int(0, rows - 1);
  c.alone = [args, row = c.row](const cuda::KernelTable& table, const cuda::KernelStream& stream,
                                const TensorView& to) {
    HeadProjectArgs one = args;
    one.x = TensorView(args.x.f32() + row * args.x_token_stride, DType::kF32,
                       {1, args.x.dim(1), args.x.dim(2)});
    one.y = to;
    table.head_project(one, stream);
  };
  return c;
}

SweepCase GroupedGemm(Draw& draw) {
  const bool f8 = draw.Coin();
  const DType dtype = f8 ? DType::kF8E4M3 : DType::kBF16;
  const auto offsets = std::make_shared<const std::vector<int32_t>>(Offsets(draw));
  const auto experts = static_cast<int64_t>(offsets->size()) - 1;
  const int64_t rows = offsets->back(), width = Width(draw, dtype);
  const int64_t outputs = draw.Size(draw.sizes().outputs_max);
  const int64_t across = (width + 127) / 128, blocks = (outputs + 127) / 128;
  const float top = f8 ? kScaleTop : 1.0f;
  const Draw::Values x = draw.Make(dtype, {rows, width});
  const Draw::Values w = draw.Make(dtype, {experts * outputs, width});
  const auto scales = [&](int64_t count) {
    return f8 ? draw.Make(DType::kF32, {count, across}, top / 4, top * 3 / 4).view : TensorView();
  };
  const GroupedGemmArgs args{
      .x = x.view,
      .x_scale = scales(rows),
      .w = w.view,
      .w_scale = scales(experts * blocks),
      .y = draw.Space(draw.Coin() ? DType::kBF16 : DType::kF32, {rows, outputs}),
      .offsets = *offsets};
  SweepCase c = CaseOf("grouped_gemm",
                       fmt::format("{} rows of {} experts, N{} K{}, {} -> {}", rows, experts,
                                   outputs, width, NameOf(dtype), NameOf(args.y.dtype())),
                       args, &cuda::KernelTable::grouped_gemm);
  const double rounds = args.y.dtype() == DType::kBF16 ? 1.0 / 128 : 0.0;
  c.outputs.push_back(
      {.name = "y",
       .at = args.y,
       .before = {},
       .bound = [norms = NormsOf(x, width, top), most = Most(NormsOf(w, width, top)), outputs,
                 width, f8, rounds, offsets](int64_t i, double want) {
         const double absolute = norms[static_cast<size_t>(i / outputs)] * most;
         return SumBound(width, absolute) + (f8 ? absolute * kF8Unit : 0.0) +
                rounds * std::abs(want) + 1e-6;
       }});
  c.row = draw.Int(0, rows - 1);
  c.alone = [args, row = c.row, offsets](const cuda::KernelTable& table,
                                         const cuda::KernelStream& stream, const TensorView& to) {
    std::vector<int32_t> one(offsets->size(), 0);
    std::fill(one.begin() + static_cast<int64_t>(ExpertOf(*offsets, row)) + 1, one.end(), 1);
    GroupedGemmArgs alone = args;
    alone.x = args.x.Rows(row, 1);
    if (!args.x_scale.empty()) alone.x_scale = args.x_scale.Rows(row, 1);
    alone.y = to;
    alone.offsets = one;
    table.grouped_gemm(alone, stream);
  };
  return c;
}

// Places of the same size for each expert, of which the card knows how many rows are in use.
SweepCase MaskedGemm(Draw& draw) {
  const bool f8 = draw.Coin();
  const DType dtype = f8 ? DType::kF8E4M3 : DType::kBF16;
  const int64_t experts = draw.Int(1, draw.sizes().experts_max);
  const int64_t places = draw.Size(std::max<int64_t>(draw.sizes().rows_max / experts, 1));
  const int64_t rows = experts * places, width = Width(draw, dtype);
  const int64_t outputs = draw.Size(draw.sizes().outputs_max);
  const int64_t across = (width + 127) / 128, blocks = (outputs + 127) / 128;
  const float top = f8 ? kScaleTop : 1.0f;
  std::vector<int32_t> counts;
  for (int64_t e = 0; e < experts; ++e) {
    counts.push_back(static_cast<int32_t>(draw.Int(0, 3) == 0 ? 0 : draw.Int(1, places)));
  }
  const Draw::Values x = draw.Make(dtype, {rows, width});
  const Draw::Values w = draw.Make(dtype, {experts * outputs, width});
  const auto scales = [&](int64_t count) {
    return f8 ? draw.Make(DType::kF32, {count, across}, top / 4, top * 3 / 4).view : TensorView();
  };
  GroupedGemmArgs args{.x = x.view,
                       .x_scale = scales(rows),
                       .w = w.view,
                       .w_scale = scales(experts * blocks),
                       .y = draw.Space(DType::kBF16, {rows, outputs}),
                       .counts = draw.I32({experts}, counts),
                       .rows_expected = draw.Int(1, places)};
  SweepCase c = CaseOf(
      "grouped_gemm masked",
      fmt::format("{} x {} places, N{} K{}, {}", experts, places, outputs, width, NameOf(dtype)),
      args, &cuda::KernelTable::grouped_gemm);
  // Places without a row stay as they are.
  c.outputs.push_back(
      {.name = "y",
       .at = args.y,
       .before = std::vector<std::byte>(args.y.num_bytes(), std::byte{0x11}),
       .bound = [norms = NormsOf(x, width, top), most = Most(NormsOf(w, width, top)), outputs,
                 width, f8](int64_t i, double want) {
         const double absolute = norms[static_cast<size_t>(i / outputs)] * most;
         return SumBound(width, absolute) + (f8 ? absolute * kF8Unit : 0.0) + std::abs(want) / 128 +
                1e-6;
       }});
  return c;
}

}  // namespace

std::vector<SweepOp> SweepProducts() {
  return {{"linear", Linear},
          {"grouped_gemm", GroupedGemm},
          {"grouped_gemm masked", MaskedGemm},
          {"head_project", HeadProject}};
}

}  // namespace choir::gpu
