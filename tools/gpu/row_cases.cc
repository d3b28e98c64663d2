#include "tools/gpu/row_cases.h"

#include <fmt/format.h>

#include <numeric>

namespace choir::gpu {

TensorView RowCases::Ids(int64_t tokens, int64_t top_k, int64_t experts) {
  const TensorView ids = card_.Make(DType::kI32, {tokens, top_k});
  std::vector<int32_t> spread(static_cast<size_t>(tokens * top_k));
  for (size_t i = 0; i < spread.size(); ++i) {
    spread[i] = static_cast<int32_t>(i * 7 % static_cast<size_t>(experts));
  }
  card_.Upload(ids, spread.data());
  return ids;
}

void RowCases::GateAnd(const GateTopKArgs& gate, const PermuteArgs& permute, const char* op,
                       const std::string& shape, const char* figure) {
  use_({.op = op,
        .shape = shape,
        .work = {gate.Bytes() + permute.Bytes(), gate.Flops() + permute.Flops()},
        .figure = figure,
        .dense = {},
        .run =
            [&](const KernelTable& table, const KernelStream& stream) {
              table.gate_top_k(gate, stream);
              table.permute(permute, stream);
            },
        .same =
            [](const KernelTable& a, const KernelTable& b) {
              return a.gate_top_k == b.gate_top_k && a.permute == b.permute;
            }});
}

void RowCases::Routing() {
  const int64_t pairs = s_.tokens * s_.top_k;
  const GateTopKArgs gate{.logits = F32({s_.tokens, s_.experts}),
                          .bias = F32({s_.experts}),
                          .score = GateScore::kSigmoid,
                          .num_groups = 8,
                          .groups_kept = 4,
                          .group_score = GroupScore::kSumOfBestTwo,
                          .normalize = true,
                          .scaling = 2.5f,
                          .expert_ids = card_.Make(DType::kI32, {s_.tokens, s_.top_k}),
                          .weights = F32({s_.tokens, s_.top_k})};
  const std::string of_gate = fmt::format("{} x {}, top {}", s_.tokens, s_.experts, s_.top_k);
  const std::string of_rows = fmt::format("{} x {} x {}", s_.tokens, s_.top_k, s_.hidden);
  const PermuteArgs permute{.x = F32({s_.tokens, s_.hidden}),
                            .expert_ids = Ids(s_.tokens, s_.top_k, s_.experts),
                            .offsets = card_.Make(DType::kI32, {s_.experts + 1}),
                            .row_of = card_.Make(DType::kI32, {pairs}),
                            .y = card_.Make(DType::kBF16, {pairs, s_.hidden})};
  GateAnd(gate, permute, "gate + permute", of_rows, "");
  // Choosing and placing without the rows, which alone take as long as they are to be copied.
  constexpr int64_t kNarrow = 4;
  PermuteArgs places = permute;
  places.x = F32({s_.tokens, kNarrow});
  places.y = card_.Make(DType::kBF16, {pairs, kNarrow});
  GateAnd(gate, places, "gate + places", of_gate, "gate_permute");
  Use({.op = "gate_top_k", .shape = of_gate, .work = {gate.Bytes(), gate.Flops()}}, gate,
      &KernelTable::gate_top_k);
  Use({.op = "permute", .shape = of_rows, .work = {permute.Bytes(), 0}}, permute,
      &KernelTable::permute);
  const UnpermuteArgs unpermute{.y = F32({pairs, s_.hidden}),
                                .row_of = permute.row_of,
                                .weights = gate.weights,
                                .out = F32({s_.tokens, s_.hidden})};
  Use({.op = "unpermute", .shape = of_rows, .work = {unpermute.Bytes(), unpermute.Flops()}},
      unpermute, &KernelTable::unpermute);
  card_.FreeAll();
}

void RowCases::Rows(int64_t rows) {
  const TensorView x = F32({rows, s_.hidden});
  const std::string shape = fmt::format("{} x {}", rows, s_.hidden);
  const RmsNormArgs norm{.x = x, .w = F32({s_.hidden}), .y = F32({rows, s_.hidden})};
  Use({.op = "rms_norm", .shape = shape, .work = {norm.Bytes(), norm.Flops()}}, norm,
      &KernelTable::rms_norm);
  const SwiGluArgs glu{
      .gate = F32({rows, s_.dense}), .up = F32({rows, s_.dense}), .y = F32({rows, s_.dense})};
  Use({.op = "swi_glu",
       .shape = fmt::format("{} x {}", rows, s_.dense),
       .work = {glu.Bytes(), glu.Flops()}},
      glu, &KernelTable::swi_glu);
  const EmbeddingArgs lookup{.ids = TensorView(Ids(rows, 1, s_.vocab).raw(), DType::kI32, {rows}),
                             .table = card_.Make(DType::kBF16, {s_.vocab, s_.hidden}),
                             .y = F32({rows, s_.hidden})};
  Use({.op = "embedding", .shape = shape, .work = {lookup.Bytes(), 0}}, lookup,
      &KernelTable::embedding);
  const RopeArgs rope{.x = F32({rows, s_.heads, s_.rope}),
                      .num_tokens = rows,
                      .num_heads = s_.heads,
                      .token_stride = s_.heads * s_.rope,
                      .head_stride = s_.rope,
                      .rotary_dim = s_.rope,
                      .interleaved = true,
                      .cos = F32({s_.context, s_.rope / 2}),
                      .sin = F32({s_.context, s_.rope / 2}),
                      .positions = card_.Make(DType::kI32, {rows})};
  Use({.op = "rope",
       .shape = fmt::format("{} x {} x {}", rows, s_.heads, s_.rope),
       .work = {rope.Bytes(), rope.Flops()}},
      rope, &KernelTable::rope);
  const QuantizeF8Args f8{.x = x,
                          .y = card_.Make(DType::kF8E4M3, {rows, s_.hidden}),
                          .y_scale = F32({rows, (s_.hidden + 127) / 128})};
  Use({.op = "quantize_f8", .shape = shape, .work = {f8.Bytes(), f8.Flops()}}, f8,
      &KernelTable::quantize_f8);
  card_.FreeAll();
  Latents(rows);
}

void RowCases::Latents(int64_t rows) {
  const int64_t width = s_.lora + s_.rope, blocks = (rows + kBlockTokens - 1) / kBlockTokens;
  std::vector<int64_t> slots(static_cast<size_t>(rows));
  std::iota(slots.begin(), slots.end(), 0);
  const StoreLatentArgs args{.x = F32({rows, width}),
                             .norm = F32({s_.lora}),
                             .interleaved = true,
                             .cos = F32({s_.context, s_.rope / 2}),
                             .sin = F32({s_.context, s_.rope / 2}),
                             .positions = card_.Make(DType::kI32, {rows}),
                             .kv = {card_.Make(DType::kBF16, {blocks, kBlockTokens, width})},
                             .slots = slots};
  Use({.op = "store_latent",
       .shape = fmt::format("{} x {}", rows, width),
       .work = {args.Bytes(), args.Flops()}},
      args, &KernelTable::store_latent);
  card_.FreeAll();
}

void RowCases::Sampling(int64_t rows) {
  const std::vector<SampleRow> each(static_cast<size_t>(rows),
                                    {.temperature = 0.7, .top_p = 0.95, .seed = 1, .top_k = 50});
  const SampleArgs args{
      .logits = F32({rows, s_.vocab}), .rows = each, .ids = card_.Make(DType::kI32, {rows})};
  Use({.op = "sample",
       .shape = fmt::format("{} x {}, top_k 50, top_p 0.95", rows, s_.vocab),
       .work = {args.Bytes(), 0}},  // its operations are integers'
      args, &KernelTable::sample);
  card_.FreeAll();
}

}  // namespace choir::gpu
