// Experts at random shapes: rows in f32 or bf16, and rows in f8.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "kernels/ops/moe.h"
#include "tools/gpu/sweep_cases.h"
#include "tools/gpu/sweep_matrices.h"

namespace choir::gpu {
namespace {

struct Experts {
  std::shared_ptr<const std::vector<int32_t>> offsets;
  std::shared_ptr<std::vector<ExpertWeights>> weights;
  double gates = 0, downs = 0;  // the largest norm of a row
  int64_t rows() const { return offsets->back(); }
};

Experts MakeExperts(Draw& draw, DType dtype, int64_t hidden, int64_t inner) {
  Experts made{.offsets = std::make_shared<const std::vector<int32_t>>(Offsets(draw)),
               .weights = std::make_shared<std::vector<ExpertWeights>>()};
  for (size_t e = 0; e + 1 < made.offsets->size(); ++e) {
    const Matrix gate = MakeMatrix(draw, dtype, inner, hidden);
    const Matrix up = MakeMatrix(draw, dtype, inner, hidden);
    const Matrix down = MakeMatrix(draw, dtype, hidden, inner);
    made.weights->push_back({.gate = gate.w,
                             .up = up.w,
                             .down = down.w,
                             .gate_scale = gate.scale,
                             .up_scale = up.scale,
                             .down_scale = down.scale});
    made.gates = std::max({made.gates, gate.most, up.most});
    made.downs = std::max(made.downs, down.most);
  }
  return made;
}

// One row of the case by itself; keeps experts and offsets.
void AddAlone(Draw& draw, const ExpertFfnArgs& args, const Experts& experts, SweepCase* c) {
  c->row = draw.Int(0, experts.rows() - 1);
  c->alone = [args, experts, row = c->row](const cuda::KernelTable& table,
                                           const cuda::KernelStream& stream, const TensorView& to) {
    std::vector<int32_t> one(experts.offsets->size(), 0);
    std::fill(one.begin() + static_cast<int64_t>(ExpertOf(*experts.offsets, row)) + 1, one.end(),
              1);
    ExpertFfnArgs alone = args;
    alone.x = TensorView(
        static_cast<std::byte*>(args.x.raw()) + BytesOf(args.x.dtype(), row * args.x_pitch()),
        args.x.dtype(), {1, args.x.dim(1)});
    if (args.has_f8_rows()) {
      alone.x_scale = TensorView(args.x_scale.f32() + row * args.x_scale_pitch(), DType::kF32,
                                 {1, args.x_scale.dim(1)});
    }
    alone.offsets = one;
    alone.y = to;
    alone.scratch = args.scratch.Rows(0, 1);
    table.expert_ffn(alone, stream);
  };
}

SweepCase ExpertFfn(Draw& draw) {
  const bool hopper = draw.sizes().hopper && draw.Coin();
  const DType some = draw.Coin() ? DType::kBF16 : DType::kF8E4M3;
  const DType dtype = hopper ? some : AnyFormat(draw);
  const auto round = [&](int64_t n) {
    return dtype == DType::kF4E2M1 ? std::max<int64_t>(n / 32, 1) * 32 : n;
  };
  const int64_t hidden =
      hopper ? 128 * draw.Int(1, 5) : round(draw.Size(draw.sizes().width_max / 4));
  const int64_t inner =
      hopper ? 128 * draw.Int(1, 3) : round(draw.Size(draw.sizes().outputs_max / 2));
  const Experts experts = MakeExperts(draw, dtype, hidden, inner);
  const int64_t rows = experts.rows();
  const Compute compute = hopper || draw.Coin() ? Compute::kBF16 : Compute::kF32;
  const Draw::Values x =
      draw.Make(compute == Compute::kBF16 ? DType::kBF16 : DType::kF32, {rows, hidden}, 0.5f);
  const ExpertFfnArgs args{.x = x.view,
                           .offsets = *experts.offsets,
                           .experts = *experts.weights,
                           .y = draw.Space(DType::kF32, {rows, hidden}),
                           .scratch = draw.Space(DType::kF32, {rows, inner}),
                           .compute = compute};
  SweepCase c =
      CaseOf("expert_ffn",
             fmt::format("{} rows of {} experts, {} / {}, {}, {}", rows, args.experts.size(),
                         hidden, inner, NameOf(dtype), compute == Compute::kBF16 ? "bf16" : "f32"),
             args, &cuda::KernelTable::expert_ffn);
  // |glu| <= |gate| |up| <= g²; what the first products are off by, and in bf16 another rounding
  // of glu, goes through the second.
  const double g = Most(NormsOf(x, hidden)) * experts.gates;
  const double glu_off =
      3 * g * SumBound(hidden, g) + g * g / (compute == Compute::kBF16 ? 256 : 1e6);
  const double off = std::sqrt(static_cast<double>(inner)) * experts.downs;
  c.outputs.push_back({.name = "y",
                       .at = args.y,
                       .before = {},
                       .bound = [bound = off * glu_off + SumBound(inner, off * g * g) + 1e-6](
                                    int64_t, double) { return bound; }});
  AddAlone(draw, args, experts, &c);
  return c;
}

// As `--f8-rows` has them: one behind the other, or with something else behind a row and its
// scales.
SweepCase ExpertFfnOfF8Rows(Draw& draw) {
  const bool hopper = draw.sizes().hopper && draw.Coin();
  const int64_t hidden = hopper ? 128 * draw.Int(1, 5) : draw.Size(draw.sizes().width_max / 4);
  const int64_t inner = hopper ? 128 * draw.Int(1, 3) : draw.Size(draw.sizes().outputs_max / 2);
  const Experts experts = MakeExperts(draw, DType::kF8E4M3, hidden, inner);
  const int64_t rows = experts.rows(), across = (hidden + 127) / 128;
  const bool apart = draw.Coin();
  const int64_t gap = apart ? (hopper ? 16 * draw.Int(1, 9) : draw.Int(1, 40)) : 0;
  const int64_t scale_gap = apart ? draw.Int(1, 5) : 0;
  const TensorView x = draw.Make(DType::kF8E4M3, {rows, hidden + gap}).view;
  const TensorView x_scale =
      draw.Make(DType::kF32, {rows, across + scale_gap}, kScaleTop / 4, kScaleTop * 3 / 4).view;
  const ExpertFfnArgs args{.x = TensorView(x.raw(), x.dtype(), {rows, hidden}),
                           .x_scale = TensorView(x_scale.raw(), DType::kF32, {rows, across}),
                           .offsets = *experts.offsets,
                           .experts = *experts.weights,
                           .y = draw.Space(DType::kF32, {rows, hidden}),
                           .scratch = draw.Space(DType::kF32, {rows, inner}),
                           .compute = Compute::kBF16,
                           .x_stride = apart ? hidden + gap : 0,
                           .x_scale_stride = apart ? across + scale_gap : 0};
  SweepCase c =
      CaseOf("expert_ffn f8 rows",
             fmt::format("{} rows of {} experts, {} / {}, {} and {} apart", rows,
                         args.experts.size(), hidden, inner, args.x_pitch(), args.x_scale_pitch()),
             args, &cuda::KernelTable::expert_ffn);
  // What the first products are off by may make the neighbour of a value of glu, an eighth of it
  // apart at the most. Of few values, others may cancel the one that moved.
  const bool few = std::min(hidden, inner) < 64;
  c.outputs.push_back(
      {.name = "y", .at = args.y, .before = {}, .bound = {}, .row_part = few ? 0.5 : 0.125});
  AddAlone(draw, args, experts, &c);
  return c;
}

}  // namespace

std::vector<SweepOp> SweepExperts() {
  return {{"expert_ffn", ExpertFfn}, {"expert_ffn f8 rows", ExpertFfnOfF8Rows}};
}

}  // namespace choir::gpu
