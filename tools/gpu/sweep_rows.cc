// Ops over rows, choices and formats at random shapes.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/gpu/sweep_cases.h"

namespace choir::gpu {
namespace {

SweepCase RmsNorm(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), width = draw.Size(draw.sizes().width_max);
  const Draw::Values x = draw.Make(DType::kF32, {rows, width});
  const RmsNormArgs args{.x = x.view,
                         .w = draw.Make(draw.Coin() ? DType::kBF16 : DType::kF32, {width}).view,
                         .y = draw.Space(DType::kF32, {rows, width})};
  SweepCase c =
      CaseOf("rms_norm", fmt::format("{} x {}", rows, width), args, &cuda::KernelTable::rms_norm);
  // The sum of squares is off by this much of itself at the most, the root by half of that.
  c.outputs.push_back(
      {.name = "y", .at = args.y, .before = {}, .bound = [width](int64_t, double want) {
         return SumBound(width, std::abs(want)) + 1e-6;
       }});
  return c;
}

SweepCase SwiGlu(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), width = draw.Size(draw.sizes().width_max);
  const SwiGluArgs args{.gate = draw.Make(DType::kF32, {rows, width}, 6.0f).view,
                        .up = draw.Make(DType::kF32, {rows, width}).view,
                        .y = draw.Space(DType::kF32, {rows, width})};
  SweepCase c =
      CaseOf("swi_glu", fmt::format("{} x {}", rows, width), args, &cuda::KernelTable::swi_glu);
  c.outputs.push_back({.name = "y", .at = args.y, .before = {}, .bound = {}});
  return c;
}

std::vector<int32_t> Ids(Draw& draw, int64_t count, int64_t low, int64_t high) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(draw.Int(low, high));
  return ids;
}

SweepCase Embedding(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), width = draw.Size(draw.sizes().width_max);
  const int64_t vocab = draw.Size(draw.sizes().outputs_max);
  const EmbeddingArgs args{
      .ids = draw.I32({rows}, Ids(draw, rows, 0, vocab - 1)),
      .table = draw.Make(draw.Coin() ? DType::kBF16 : DType::kF32, {vocab, width}).view,
      .y = draw.Space(DType::kF32, {rows, width})};
  SweepCase c = CaseOf("embedding", fmt::format("{} of {} x {}", rows, vocab, width), args,
                       &cuda::KernelTable::embedding);
  c.outputs.push_back({.name = "y", .at = args.y, .before = {}, .bound = {}});
  return c;
}

SweepCase Rope(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), heads = draw.Size(draw.sizes().heads_max);
  const int64_t half = draw.Int(1, std::min<int64_t>(32, draw.sizes().outputs_max));
  const int64_t offset = draw.Int(0, 3), width = offset + 2 * half + draw.Int(0, 3);
  const int64_t positions = draw.Size(draw.sizes().keys_max);
  const TensorView x = draw.Space(DType::kF32, {rows, heads, width});
  const RopeArgs args{.x = x,
                      .num_tokens = rows,
                      .num_heads = heads,
                      .token_stride = heads * width,
                      .head_stride = width,
                      .offset = offset,
                      .rotary_dim = 2 * half,
                      .interleaved = draw.Coin(),
                      .cos = draw.Make(DType::kF32, {positions, half}).view,
                      .sin = draw.Make(DType::kF32, {positions, half}).view,
                      .positions = draw.I32({rows}, Ids(draw, rows, 0, positions - 1))};
  SweepCase c =
      CaseOf("rope", fmt::format("{} x {} heads of {}, {} rotate", rows, heads, width, 2 * half),
             args, &cuda::KernelTable::rope);
  const Draw::Values before = draw.Make(DType::kF32, {rows, heads, width});
  const auto* bytes = reinterpret_cast<const std::byte*>(before.f32.data());
  c.outputs.push_back(
      {.name = "x", .at = x, .before = {bytes, bytes + x.num_bytes()}, .bound = {}});
  return c;
}

SweepCase GateTopK(Draw& draw) {
  const int64_t groups = draw.Coin() ? 8 : 1;
  const int64_t experts = groups * draw.Int(2, groups == 1 ? 300 : 40);
  const int64_t kept = groups == 1 ? 1 : draw.Int(1, groups);
  const int64_t top_k = draw.Int(1, std::min<int64_t>(8, experts / groups * kept));
  const int64_t rows = draw.Size(draw.sizes().rows_max);
  GateTopKArgs args{
      .logits = draw.Make(DType::kF32, {rows, experts}, 4.0f).view,
      .bias = draw.Coin() ? draw.Make(DType::kF32, {experts}, 0.1f).view : TensorView(),
      .score = static_cast<GateScore>(draw.Int(0, 2)),
      .num_groups = static_cast<int32_t>(groups),
      .groups_kept = static_cast<int32_t>(kept),
      .group_score = draw.Coin() ? GroupScore::kSumOfBestTwo : GroupScore::kBest,
      .normalize = draw.Coin(),
      .scaling = 2.5f,
      .expert_ids = draw.Space(DType::kI32, {rows, top_k}),
      .weights = draw.Space(DType::kF32, {rows, top_k})};
  SweepCase c =
      CaseOf("gate_top_k",
             fmt::format("{} x {}, {} of {} groups, top {}", rows, experts, kept, groups, top_k),
             args, &cuda::KernelTable::gate_top_k);
  c.outputs.push_back({.name = "expert_ids", .at = args.expert_ids, .before = {}, .bound = {}});
  c.outputs.push_back({.name = "weights",
                       .at = args.weights,
                       .before = {},
                       .bound = [experts](int64_t, double want) {
                         return SumBound(experts, std::abs(want)) + 1e-7;
                       }});
  return c;
}

SweepCase Permute(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), top_k = draw.Int(1, 8);
  const int64_t experts = draw.Int(1, 300), width = draw.Size(draw.sizes().width_max / 4 + 1);
  const DType dtype = draw.Coin() ? DType::kBF16 : DType::kF32;
  const int64_t pairs = rows * top_k;
  const PermuteArgs args{
      .x = draw.Make(DType::kF32, {rows, width}).view,
      .expert_ids = draw.I32({rows, top_k}, Ids(draw, pairs, draw.Coin() ? 0 : -3, experts + 2)),
      .offsets = draw.Space(DType::kI32, {experts + 1}),
      .row_of = draw.Space(DType::kI32, {pairs}),
      .y = draw.Space(dtype, {pairs, width})};
  SweepCase c = CaseOf(
      "permute",
      fmt::format("{} x {} x {}, {} experts, {}", rows, top_k, width, experts, NameOf(dtype)), args,
      &cuda::KernelTable::permute);
  c.outputs.push_back({.name = "offsets", .at = args.offsets, .before = {}, .bound = {}});
  c.outputs.push_back({.name = "row_of", .at = args.row_of, .before = {}, .bound = {}});
  // Rows of no expert here stay as they are.
  c.outputs.push_back({.name = "y",
                       .at = args.y,
                       .before = std::vector<std::byte>(args.y.num_bytes(), std::byte{0x11}),
                       .bound = {}});
  return c;
}

SweepCase Unpermute(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), top_k = draw.Int(1, 8);
  const int64_t width = draw.Size(draw.sizes().width_max / 4 + 1), pairs = rows * top_k;
  std::vector<int32_t> row_of(static_cast<size_t>(pairs));
  std::iota(row_of.rbegin(), row_of.rend(), 0);
  for (int32_t& row : row_of) row = draw.Int(0, 9) == 0 ? -1 : row;
  UnpermuteArgs args{.y = draw.Make(DType::kF32, {pairs, width}).view,
                     .row_of = draw.I32({pairs}, row_of),
                     .weights = draw.Make(DType::kF32, {rows, top_k}).view,
                     .out = draw.Space(DType::kF32, {rows, width})};
  args.accumulate = draw.Coin();
  SweepCase c = CaseOf("unpermute", fmt::format("{} x {} x {}", rows, top_k, width), args,
                       &cuda::KernelTable::unpermute);
  c.outputs.push_back(
      {.name = "out", .at = args.out, .before = {}, .bound = [top_k](int64_t, double) {
         return SumBound(top_k, static_cast<double>(top_k) + 1);
       }});
  if (args.accumulate) c.outputs[0].before.assign(args.out.num_bytes(), std::byte{0x3d});
  return c;
}

SweepCase Combine(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), top_k = draw.Int(1, 8);
  const int64_t width = draw.Size(draw.sizes().width_max / 4 + 1);
  CombineArgs args{.y = draw.Make(DType::kF32, {rows * top_k, width}).view,
                   .weights = draw.Make(DType::kF32, {rows, top_k}).view,
                   .out = draw.Space(DType::kF32, {rows, width})};
  SweepCase c = CaseOf("combine", fmt::format("{} x {} x {}", rows, top_k, width), args,
                       &cuda::KernelTable::combine);
  c.outputs.push_back({.name = "out",
                       .at = args.out,
                       .before = std::vector<std::byte>(args.out.num_bytes(), std::byte{0x3d}),
                       .bound = [top_k](int64_t, double) {
                         return SumBound(top_k, static_cast<double>(top_k) + 1);
                       }});
  return c;
}

// Rows one behind the other, or with something behind each that stays.
SweepCase QuantizeF8(Draw& draw) {
  const int64_t rows = draw.Size(draw.sizes().rows_max), width = draw.Size(draw.sizes().width_max);
  const int64_t across = (width + 127) / 128;
  const bool apart = draw.Coin();
  const int64_t gap = apart ? draw.Int(1, 40) : 0, scale_gap = apart ? draw.Int(1, 5) : 0;
  const TensorView y = draw.Space(DType::kF8E4M3, {rows, width + gap});
  const TensorView y_scale = draw.Space(DType::kF32, {rows, across + scale_gap});
  const QuantizeF8Args args{
      .x = draw.Make(draw.Coin() ? DType::kBF16 : DType::kF32, {rows, width}, 3.0f).view,
      .y = TensorView(y.raw(), y.dtype(), {rows, width}),
      .y_scale = TensorView(y_scale.raw(), DType::kF32, {rows, across}),
      .y_stride = apart ? width + gap : 0,
      .y_scale_stride = apart ? across + scale_gap : 0};
  SweepCase c =
      CaseOf("quantize_f8",
             fmt::format("{} x {}, {} and {} apart", rows, width, width + gap, across + scale_gap),
             args, &cuda::KernelTable::quantize_f8);
  for (const auto& [name, at] : {std::pair("y", y), std::pair("y_scale", y_scale)}) {
    c.outputs.push_back({.name = name, .at = at, .before = {}, .bound = {}});
    if (apart) c.outputs.back().before.assign(at.num_bytes(), std::byte{0x11});
  }
  c.row = draw.Int(0, rows - 1);
  c.alone = [args, row = c.row](const cuda::KernelTable& table, const cuda::KernelStream& stream,
                                const TensorView& to) {
    QuantizeF8Args one = args;
    one.x = args.x.Rows(row, 1);
    one.y = TensorView(to.raw(), to.dtype(), {1, args.y.dim(1)});
    one.y_scale = args.y_scale.Rows(0, 1);
    table.quantize_f8(one, stream);
  };
  return c;
}

SweepCase Dequantize(Draw& draw) {
  constexpr DType kFrom[] = {DType::kBF16, DType::kF8E4M3, DType::kF4E2M1};
  const DType from = kFrom[draw.Int(0, 2)];
  const int64_t rows = draw.Size(draw.sizes().outputs_max);
  const int64_t width = 32 * draw.Int(1, std::max<int64_t>(draw.sizes().width_max / 32, 1));
  TensorView scale;
  const bool of_rows = from == DType::kF8E4M3 && draw.Coin();
  if (from == DType::kF8E4M3) {
    const int64_t down = of_rows ? rows : (rows + 127) / 128;
    scale = draw.Make(DType::kF32, {down, (width + 127) / 128}, 0.01f, 0.02f).view;
  }
  if (from == DType::kF4E2M1) scale = draw.Make(DType::kU8, {rows, width / kF4Block}).view;
  const DequantizeArgs args{
      .w = draw.Make(from, {rows, width}).view,
      .w_scale = scale,
      .y = draw.Space(draw.Coin() ? DType::kBF16 : DType::kF32, {rows, width})};
  SweepCase c = CaseOf("dequantize",
                       fmt::format("{} x {}, {}{} -> {}", rows, width, NameOf(from),
                                   of_rows ? " with scales of rows" : "", NameOf(args.y.dtype())),
                       args, &cuda::KernelTable::dequantize);
  c.outputs.push_back({.name = "y", .at = args.y, .before = {}, .bound = {}});
  return c;
}

SweepCase Sample(Draw& draw) {
  const int64_t count = draw.Int(1, std::min<int64_t>(draw.sizes().rows_max, 40));
  const int64_t vocab = draw.Size(draw.sizes().vocab_max);
  const auto rows = std::make_shared<std::vector<SampleRow>>();
  for (int64_t i = 0; i < count; ++i) {
    rows->push_back(
        {.temperature = draw.Int(0, 3) == 0 ? 0.0 : 0.1 * static_cast<double>(draw.Int(1, 20)),
         .top_p = draw.Coin() ? 1.0 : 0.1 * static_cast<double>(draw.Int(1, 10)),
         .min_p = draw.Coin() ? 0.0 : 0.05,
         .seed = static_cast<uint64_t>(draw.Int(0, 1 << 30)),
         .position = static_cast<uint64_t>(draw.Int(0, 5000)),
         .choice = static_cast<uint32_t>(draw.Int(0, 3)),
         .top_k = static_cast<int32_t>(draw.Coin() ? 0 : draw.Int(1, 100))});
  }
  const SampleArgs args{.logits = draw.Make(DType::kF32, {count, vocab}, 8.0f).view,
                        .rows = *rows,
                        .ids = draw.Space(DType::kI32, {count})};
  SweepCase c =
      CaseOf("sample", fmt::format("{} x {}", count, vocab), args, &cuda::KernelTable::sample);
  c.outputs.push_back({.name = "ids", .at = args.ids, .before = {}, .bound = {}});
  c.run = [args, rows](const cuda::KernelTable& table, const cuda::KernelStream& stream) {
    table.sample(args, stream);
  };
  return c;
}

}  // namespace

std::vector<SweepOp> SweepRows() {
  return {{"rms_norm", RmsNorm},       {"swi_glu", SwiGlu},
          {"embedding", Embedding},    {"rope", Rope},
          {"gate_top_k", GateTopK},    {"permute", Permute},
          {"unpermute", Unpermute},    {"combine", Combine},
          {"quantize_f8", QuantizeF8}, {"dequantize", Dequantize},
          {"sample", Sample}};
}

}  // namespace choir::gpu
