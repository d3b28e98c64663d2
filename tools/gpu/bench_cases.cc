#include "tools/gpu/bench_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/gpu/row_cases.h"
#include "worker/model/layers/f8_rows.h"

namespace choir::gpu {
namespace {

constexpr int64_t kGroups = 4;  // experts of the grouped products that figures ask about

cuda::DenseFormat FormatOf(DType dtype) {
  return dtype == DType::kBF16 ? cuda::DenseFormat::kBF16 : cuda::DenseFormat::kF8;
}

class Cases : CaseMaker {
 public:
  using CaseMaker::CaseMaker;

  void Grouped(DType dtype, int64_t rows, bool masked, int64_t outputs, int64_t width);
  void Mla(const char* form, int64_t sequences, int32_t rows);
  void Gqa(int64_t sequences);
  void Linear(const char* what, int64_t rows, int64_t outputs, int64_t width, DType dtype,
              Compute compute = Compute::kBF16);
  void Merged(const char* what, int64_t rows, std::vector<int64_t> outputs);
  void LinearsOfALayer(int64_t rows);
  void Heads(int64_t rows);
  void Experts(int64_t tokens);

 private:
  // `count` sequences of the whole context, each with its last `rows` in the batch.
  struct Paged {
    std::vector<int32_t> table;
    std::vector<AttentionSequence> sequences;
    int64_t blocks = 0, rows = 0;
  };
  Paged MakePaged(int64_t count, int32_t rows) const;
};

// Masked: the form of decode steps, with counts that lie on the card; every row is there.
void Cases::Grouped(DType dtype, int64_t rows, bool masked, int64_t outputs, int64_t width) {
  const bool f8 = dtype == DType::kF8E4M3;
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= kGroups; ++e) offsets.push_back(static_cast<int32_t>(e * rows));
  const int64_t across = (width + 127) / 128, blocks = (outputs + 127) / 128;
  const Contents scales{.range = 0.004, .base = 0.005};
  GroupedGemmArgs args{
      .x = card_.Make(dtype, {kGroups * rows, width}),
      .x_scale = f8 ? card_.Make(DType::kF32, {kGroups * rows, across}, scales) : TensorView(),
      .w = card_.Make(dtype, {kGroups * outputs, width}),
      .w_scale = f8 ? card_.Make(DType::kF32, {kGroups * blocks, across}, scales) : TensorView(),
      .y = card_.Make(DType::kBF16, {kGroups * rows, outputs}),
      .offsets = offsets};
  if (masked) {
    const std::vector<int32_t> counts(kGroups, static_cast<int32_t>(rows));
    args.offsets = {};
    args.counts = card_.Make(DType::kI32, {kGroups});
    args.rows_expected = rows;
    card_.Upload(args.counts, counts.data());
  }
  BenchCase c{.op = "grouped_gemm",
              .shape = fmt::format("{} {}x{}, N{} K{}, {}", masked ? "masked" : "contiguous",
                                   kGroups, rows, outputs, width, NameOf(dtype)),
              .work = {args.Bytes(), args.Flops(), f8 ? Math::kF8 : Math::kBF16}};
  if (!masked) c.dense = {kGroups * rows, outputs, width, FormatOf(dtype)};
  const bool first = width == s_.hidden;  // of an expert's two products
  if (f8 && !masked && first) c.figure = "f8_contiguous";
  if (f8 && masked && rows == s_.decode_rows && first) c.figure = "f8_decode";
  if (!f8 && !masked && first) c.figure = "bf16_grouped";
  Use(std::move(c), args, &KernelTable::grouped_gemm);
  card_.FreeAll();
}

Cases::Paged Cases::MakePaged(int64_t count, int32_t rows) const {
  Paged p;
  const int64_t blocks = (s_.context + kBlockTokens - 1) / kBlockTokens;
  p.blocks = count * blocks;
  p.table.resize(static_cast<size_t>(p.blocks));
  std::iota(p.table.begin(), p.table.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    p.sequences.push_back({static_cast<int32_t>(i * rows), rows,
                           static_cast<int32_t>(s_.context) - rows, p.table.data() + i * blocks});
  }
  p.rows = count * rows;
  return p;
}

void Cases::Gqa(int64_t sequences) {
  constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128, kWidth = kKvHeads * kDim;
  const Paged p = MakePaged(sequences, 1);
  const PagedAttentionArgs args{.q = F32({p.rows, kHeads, kDim}),
                                .k = {card_.Make(DType::kBF16, {p.blocks, kBlockTokens, kWidth})},
                                .v = {card_.Make(DType::kBF16, {p.blocks, kBlockTokens, kWidth})},
                                .out = F32({p.rows, kHeads, kDim}),
                                .sequences = p.sequences,
                                .kv_heads = kKvHeads,
                                .scale = 0.088f};
  Use({.op = "paged_attention",
       .shape = fmt::format("decode {} x {} keys, 32/8 heads of 128", sequences, s_.context),
       .work = {args.Bytes(), args.Flops()}},
      args, &KernelTable::paged_attention);
  card_.FreeAll();
}

void Cases::Mla(const char* form, int64_t sequences, int32_t rows) {
  const Paged p = MakePaged(sequences, rows);
  const TensorView latent = card_.Make(DType::kBF16, {p.blocks, kBlockTokens, s_.lora + s_.rope});
  const MlaAttentionArgs args{.q_latent = F32({p.rows, s_.heads, s_.lora}),
                              .q_rope = F32({p.rows, s_.heads, s_.rope}),
                              .latent = {latent},
                              .out = F32({p.rows, s_.heads, s_.lora}),
                              .sequences = p.sequences,
                              .scale = 0.072f};
  Use({.op = "mla_attention",
       .shape = fmt::format("{} {} x {} rows, {} keys, {} heads", form, sequences, rows, s_.context,
                            s_.heads),
       .work = {args.Bytes(), args.Flops()},
       .figure = rows == 1 && sequences == s_.batches.back() ? "mla_decode" : ""},
      args, &KernelTable::mla_attention);
  card_.FreeAll();
}

void Cases::Linear(const char* what, int64_t rows, int64_t outputs, int64_t width, DType dtype,
                   Compute compute) {
  const LinearArgs args{.x = F32({rows, width}),
                        .w = card_.Make(dtype, {outputs, width}),
                        .w_scale = Scales(dtype, outputs, width),
                        .y = F32({rows, outputs}),
                        .compute = compute};
  BenchCase c{
      .op = "linear",
      .shape = fmt::format("{} {} x {} -> {}, {}", what, rows, width, outputs, NameOf(dtype)),
      .work = {args.Bytes(), args.Flops()}};
  if (compute == Compute::kBF16 && dtype != DType::kF4E2M1)
    c.dense = {rows, outputs, width, FormatOf(dtype)};
  Use(std::move(c), args, &KernelTable::linear);
  card_.FreeAll();
}

// Products in f8 of the same rows of `hidden` columns.
void Cases::Merged(const char* what, int64_t rows, std::vector<int64_t> outputs) {
  const TensorView x = F32({rows, s_.hidden});
  std::vector<LinearArgs> parts;
  int64_t all = 0;
  for (const int64_t count : outputs) {
    parts.push_back({.x = x,
                     .w = card_.Make(DType::kF8E4M3, {count, s_.hidden}),
                     .w_scale = Scales(DType::kF8E4M3, count, s_.hidden),
                     .y = F32({rows, count}),
                     .compute = Compute::kBF16});
    all += count;
  }
  const MergedLinearArgs args{parts};
  Use({.op = "merged_linear",
       .shape = fmt::format("{} {} x {} -> {}, f8_e4m3", what, rows, s_.hidden, all),
       .work = {args.Bytes(), args.Flops()},
       .dense = cuda::DenseShape{rows, all, s_.hidden, cuda::DenseFormat::kF8}},
      args, &KernelTable::merged_linear);
  card_.FreeAll();
}

// The products of DeepSeek-V3's layers that are not of experts.
void Cases::LinearsOfALayer(int64_t rows) {
  const DType f8 = DType::kF8E4M3;
  Merged("q_a, kv_a", rows, {s_.q_lora, s_.lora + s_.rope});
  Linear("q_b", rows, s_.heads * (s_.nope + s_.rope), s_.q_lora, f8);
  Linear("o", rows, s_.hidden, s_.heads * s_.nope, f8);
  Linear("router", rows, s_.experts, s_.hidden, DType::kBF16, Compute::kF32);
  Merged("shared gate, up", rows, {s_.inner, s_.inner});
  Linear("dense up", rows, s_.dense, s_.hidden, f8);
  Linear("dense down", rows, s_.hidden, s_.dense, f8);
}

void Cases::Heads(int64_t rows) {
  for (const bool transpose : {false, true}) {
    const int64_t from = transpose ? s_.lora : s_.nope, to = transpose ? s_.nope : s_.lora;
    const HeadProjectArgs args{
        .x = F32({rows, s_.heads, from}),
        .w = card_.Make(DType::kBF16, {s_.heads * s_.nope, s_.lora}).Rows(0, s_.nope),
        .w_head_stride = s_.nope * s_.lora,
        .transpose = transpose,
        .y = F32({rows, s_.heads, to}),
        .compute = Compute::kBF16};
    Use({.op = "head_project",
         .shape = fmt::format("{} x {} heads, {} -> {}", rows, s_.heads, from, to),
         .work = {args.Bytes(), args.Flops()}},
        args, &KernelTable::head_project);
    card_.FreeAll();
  }
}

// The experts of one rank and layer with their share of `tokens` a rank, as rows in bf16 and in f8.
void Cases::Experts(int64_t tokens) {
  const DType f8 = DType::kF8E4M3;
  const int64_t each = std::max<int64_t>(tokens * s_.top_k / s_.held, 1), rows = each * s_.held;
  std::vector<int32_t> offsets = {0};
  std::vector<ExpertWeights> experts;
  for (int64_t e = 0; e < s_.held; ++e) {
    offsets.push_back(static_cast<int32_t>((e + 1) * each));
    experts.push_back({.gate = card_.Make(f8, {s_.inner, s_.hidden}),
                       .up = card_.Make(f8, {s_.inner, s_.hidden}),
                       .down = card_.Make(f8, {s_.hidden, s_.inner}),
                       .gate_scale = Scales(f8, s_.inner, s_.hidden),
                       .up_scale = Scales(f8, s_.inner, s_.hidden),
                       .down_scale = Scales(f8, s_.hidden, s_.inner)});
  }
  ExpertFfnArgs args{.x = card_.Make(DType::kBF16, {rows, s_.hidden}),
                     .offsets = offsets,
                     .experts = experts,
                     .y = F32({rows, s_.hidden}),
                     .scratch = F32({rows, s_.inner}),
                     .compute = Compute::kBF16};
  const std::string shape =
      fmt::format("{} experts x {} rows, {} / {}", s_.held, each, s_.hidden, s_.inner);
  Use({.op = "expert_ffn", .shape = shape, .work = {args.Bytes(), args.Flops()}}, args,
      &KernelTable::expert_ffn);
  // As `--f8-rows` has them: as far apart as a row and its scales take.
  const int64_t across = (s_.hidden + 127) / 128, words = F8Rows(s_.hidden).width();
  args.x = TensorView(card_.Make(f8, {rows, 4 * words}).raw(), f8, {rows, s_.hidden});
  args.x_scale =
      TensorView(card_.Make(DType::kF32, {rows, words}, {.range = 0.004, .base = 0.005}).raw(),
                 DType::kF32, {rows, across});
  args.x_stride = 4 * words;
  args.x_scale_stride = words;
  Use({.op = "expert_ffn",
       .shape = shape + ", rows in f8",
       .work = {args.Bytes(), args.Flops(), Math::kF8}},
      args, &KernelTable::expert_ffn);
  card_.FreeAll();
}

}  // namespace

void ForBenchCases(const BenchShapes& s, Card& card,
                   const std::function<void(const BenchCase&)>& use) {
  Cases cases(s, card, use);
  RowCases row_cases(s, card, use);
  const DType f8 = DType::kF8E4M3, bf16 = DType::kBF16;
  cases.Grouped(f8, s.grouped_rows, false, 2 * s.inner, s.hidden);
  cases.Grouped(f8, s.decode_rows, true, 2 * s.inner, s.hidden);
  cases.Mla("decode", s.batches.back(), 1);
  cases.Grouped(bf16, s.grouped_rows, false, 2 * s.inner, s.hidden);
  row_cases.Routing();
  cases.Grouped(f8, s.grouped_rows, false, s.hidden, s.inner);
  cases.Grouped(f8, s.decode_rows, true, s.hidden, s.inner);
  for (const int64_t batch : s.batches) {
    cases.Grouped(f8, batch, true, 2 * s.inner, s.hidden);
    cases.Experts(batch);
    cases.LinearsOfALayer(batch);
    cases.Heads(batch);
    row_cases.Rows(batch);
    cases.Gqa(batch);
  }
  cases.Linear("head", s.batches.front(), s.vocab, s.hidden, bf16);
  cases.Linear("shared up", s.batches.front(), s.inner, s.hidden, DType::kF4E2M1);
  if (s.batches.size() > 1) cases.Mla("decode", s.batches.front(), 1);
  cases.Mla("prefill", 1, static_cast<int32_t>(s.context / 8));
  row_cases.Sampling(s.batches.front());
  cases.Experts(s.tokens);
  for (const DType w : {f8, bf16}) cases.Linear("o", s.tokens, s.hidden, s.heads * s.nope, w);
  cases.Linear("dense up", s.tokens, s.dense, s.hidden, f8);
  cases.Heads(s.tokens);
  cases.Linear("router", s.tokens, s.experts, s.hidden, bf16, Compute::kF32);
  row_cases.Rows(s.tokens);
}

}  // namespace choir::gpu
