#include "tools/gpu/bench_cases.h"

#include <fmt/format.h>

#include <numeric>

namespace choir::gpu {
namespace {

constexpr int64_t kBlockTokens = 64;

class Cases {
 public:
  Cases(const cuda::KernelTable& table, const BenchShapes& shapes, BenchMemory& memory,
        const std::function<void(const BenchCase&)>& use)
      : table_(table), s_(shapes), memory_(memory), use_(use) {}

  void Rows();
  void Routing();
  void Products();
  void Grouped(bool f8, int64_t rows, const char* form);
  void Gqa();
  void Mla(const char* form, int64_t sequences, int32_t rows);
  void Sampling();

 private:
  template <class Args>
  void Use(const char* op, std::string shape, const Args& args,
           void (*run)(const Args&, const cuda::KernelStream&)) {
    Use(op, std::move(shape), args, run, args.Bytes(), args.Flops());
  }
  template <class Args>
  void Use(const char* op, std::string shape, const Args& args,
           void (*run)(const Args&, const cuda::KernelStream&), int64_t bytes, int64_t flops) {
    use_({op, std::move(shape), bytes, flops,
          [args, run](const cuda::KernelStream& stream) { run(args, stream); }});
  }
  TensorView F32(std::initializer_list<int64_t> shape) { return memory_.Make(DType::kF32, shape); }

  // `count` sequences of the whole context, each with its last `rows` in the batch.
  struct Paged {
    std::vector<int32_t> table;
    std::vector<AttentionSequence> sequences;
    int64_t blocks = 0, rows = 0, keys = 0;  // keys: over all rows
  };
  Paged MakePaged(int64_t count, int32_t rows) const;

  const cuda::KernelTable& table_;
  const BenchShapes s_;
  BenchMemory& memory_;
  const std::function<void(const BenchCase&)>& use_;
};

void Cases::Rows() {
  const TensorView x = F32({s_.tokens, s_.hidden});
  const std::string shape = fmt::format("{} x {}", s_.tokens, s_.hidden);
  const RmsNormArgs norm{.x = x, .w = F32({s_.hidden}), .y = F32({s_.tokens, s_.hidden})};
  Use("rms_norm", shape, norm, table_.rms_norm);
  const SwiGluArgs glu{.gate = F32({s_.tokens * s_.top_k, s_.inner}),
                       .up = F32({s_.tokens * s_.top_k, s_.inner}),
                       .y = F32({s_.tokens * s_.top_k, s_.inner})};
  Use("swi_glu", fmt::format("{} x {}", s_.tokens * s_.top_k, s_.inner), glu, table_.swi_glu);
  const EmbeddingArgs embedding{.ids = memory_.Make(DType::kI32, {s_.tokens}),
                                .table = memory_.Make(DType::kBF16, {s_.vocab, s_.hidden}),
                                .y = F32({s_.tokens, s_.hidden})};
  Use("embedding", shape, embedding, table_.embedding);
  const RopeArgs rope{.x = F32({s_.tokens, s_.heads, s_.rope}),
                      .num_tokens = s_.tokens,
                      .num_heads = s_.heads,
                      .token_stride = s_.heads * s_.rope,
                      .head_stride = s_.rope,
                      .rotary_dim = s_.rope,
                      .interleaved = true,
                      .cos = F32({s_.context, s_.rope / 2}),
                      .sin = F32({s_.context, s_.rope / 2}),
                      .positions = memory_.Make(DType::kI32, {s_.tokens})};
  Use("rope", fmt::format("{} x {} x {}", s_.tokens, s_.heads, s_.rope), rope, table_.rope);
  const QuantizeF8Args f8{.x = x,
                          .y = memory_.Make(DType::kF8E4M3, {s_.tokens, s_.hidden}),
                          .y_scale = F32({s_.tokens, (s_.hidden + 127) / 128})};
  Use("quantize_f8", shape, f8, table_.quantize_f8);
}

void Cases::Routing() {
  const TensorView ids = memory_.Make(DType::kI32, {s_.tokens, s_.top_k});
  const TensorView weights = F32({s_.tokens, s_.top_k});
  const GateTopKArgs gate{.logits = F32({s_.tokens, s_.experts}),
                          .bias = F32({s_.experts}),
                          .score = GateScore::kSigmoid,
                          .num_groups = 8,
                          .groups_kept = 4,
                          .group_score = GroupScore::kSumOfBestTwo,
                          .normalize = true,
                          .scaling = 2.5f,
                          .expert_ids = memory_.Make(DType::kI32, {s_.tokens, s_.top_k}),
                          .weights = weights};
  Use("gate_top_k", fmt::format("{} x {}, top {}", s_.tokens, s_.experts, s_.top_k), gate,
      table_.gate_top_k);
  std::vector<int32_t> spread(static_cast<size_t>(s_.tokens * s_.top_k));
  for (size_t i = 0; i < spread.size(); ++i) {
    spread[i] = static_cast<int32_t>(i * 7 % static_cast<size_t>(s_.experts));
  }
  memory_.Fill(ids, spread);
  const PermuteArgs permute{.x = F32({s_.tokens, s_.hidden}),
                            .expert_ids = ids,
                            .offsets = memory_.Make(DType::kI32, {s_.experts + 1}),
                            .row_of = memory_.Make(DType::kI32, {s_.tokens * s_.top_k}),
                            .y = memory_.Make(DType::kBF16, {s_.tokens * s_.top_k, s_.hidden})};
  const std::string shape = fmt::format("{} x {} x {}", s_.tokens, s_.top_k, s_.hidden);
  Use("permute", shape, permute, table_.permute);
  const UnpermuteArgs unpermute{.y = F32({s_.tokens * s_.top_k, s_.hidden}),
                                .row_of = permute.row_of,
                                .weights = weights,
                                .out = F32({s_.tokens, s_.hidden})};
  Use("unpermute", shape, unpermute, table_.unpermute);
}

void Cases::Products() {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kF4E2M1}) {
    LinearArgs linear{.x = F32({s_.batch, s_.hidden}),
                      .w = memory_.Make(dtype, {s_.inner, s_.hidden}),
                      .w_scale = {},
                      .bias = {},
                      .y = F32({s_.batch, s_.inner}),
                      .compute = Compute::kBF16};
    if (dtype == DType::kF8E4M3)
      linear.w_scale = F32({(s_.inner + 127) / 128, (s_.hidden + 127) / 128});
    if (dtype == DType::kF4E2M1)
      linear.w_scale = memory_.Make(DType::kU8, {s_.inner, s_.hidden / 32});
    Use("linear", fmt::format("{} x {} -> {}, {}", s_.batch, s_.hidden, s_.inner, NameOf(dtype)),
        linear, table_.linear);
  }
}

void Cases::Grouped(bool f8, int64_t rows, const char* form) {
  constexpr int64_t kExperts = 4;
  const int64_t outputs = 2 * s_.inner;
  const DType dtype = f8 ? DType::kF8E4M3 : DType::kBF16;
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= kExperts; ++e) offsets.push_back(static_cast<int32_t>(e * rows));
  const int64_t across = (s_.hidden + 127) / 128;
  const GroupedGemmArgs args{
      .x = memory_.Make(dtype, {kExperts * rows, s_.hidden}),
      .x_scale = f8 ? F32({kExperts * rows, across}) : TensorView(),
      .w = memory_.Make(dtype, {kExperts * outputs, s_.hidden}),
      .w_scale = f8 ? F32({kExperts * ((outputs + 127) / 128), across}) : TensorView(),
      .y = memory_.Make(DType::kBF16, {kExperts * rows, outputs}),
      .offsets = offsets};
  Use("grouped_gemm",
      fmt::format("{} {}x{}, N{} K{}, {}", form, kExperts, rows, outputs, s_.hidden, NameOf(dtype)),
      args, table_.grouped_gemm);
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
  for (int64_t r = 0; r < rows; ++r) p.keys += count * (s_.context - r);
  return p;
}

void Cases::Gqa() {
  constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128;
  const Paged p = MakePaged(s_.batch, 1);
  const TensorView k = memory_.Make(DType::kBF16, {p.blocks, kBlockTokens, kKvHeads * kDim});
  const TensorView v = memory_.Make(DType::kBF16, {p.blocks, kBlockTokens, kKvHeads * kDim});
  const PagedAttentionArgs args{.q = F32({p.rows, kHeads, kDim}),
                                .k = {k},
                                .v = {v},
                                .out = F32({p.rows, kHeads, kDim}),
                                .sequences = p.sequences,
                                .kv_heads = kKvHeads,
                                .scale = 0.088f};
  Use("paged_attention",
      fmt::format("decode {} x {} keys, 32/8 heads of 128", s_.batch, s_.context), args,
      table_.paged_attention, p.keys * kKvHeads * kDim * 4, p.keys * kHeads * kDim * 4);
}

void Cases::Mla(const char* form, int64_t sequences, int32_t rows) {
  const Paged p = MakePaged(sequences, rows);
  const int64_t width = s_.lora + s_.rope;
  const TensorView latent = memory_.Make(DType::kBF16, {p.blocks, kBlockTokens, width});
  const MlaAttentionArgs args{.q_latent = F32({p.rows, s_.heads, s_.lora}),
                              .q_rope = F32({p.rows, s_.heads, s_.rope}),
                              .latent = {latent},
                              .out = F32({p.rows, s_.heads, s_.lora}),
                              .sequences = p.sequences,
                              .scale = 0.072f};
  Use("mla_attention",
      fmt::format("{} {} x {} rows, {} keys, {} heads", form, sequences, rows, s_.context,
                  s_.heads),
      args, table_.mla_attention, sequences * s_.context * width * 2,
      p.keys * s_.heads * 2 * (width + s_.lora));
}

void Cases::Sampling() {
  const std::vector<SampleRow> rows(static_cast<size_t>(s_.batch),
                                    {.temperature = 0.7, .top_p = 0.95, .seed = 1, .top_k = 50});
  const SampleArgs args{.logits = F32({s_.batch, s_.vocab}),
                        .rows = rows,
                        .ids = memory_.Make(DType::kI32, {s_.batch})};
  Use("sample", fmt::format("{} x {}, top_k 50, top_p 0.95", s_.batch, s_.vocab), args,
      table_.sample);
}

}  // namespace

void ForBenchCases(const cuda::KernelTable& table, const BenchShapes& shapes, BenchMemory& memory,
                   const std::function<void(const BenchCase&)>& use) {
  Cases cases(table, shapes, memory, use);
  cases.Rows();
  cases.Routing();
  cases.Products();
  for (const bool f8 : {false, true}) {
    cases.Grouped(f8, shapes.grouped_rows, "contiguous");
    cases.Grouped(f8, shapes.batch, "decode");
  }
  cases.Gqa();
  cases.Mla("decode", shapes.batch, 1);
  cases.Mla("prefill", 1, static_cast<int32_t>(shapes.context / 8));
  cases.Sampling();
}

}  // namespace choir::gpu
