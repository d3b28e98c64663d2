#include "worker/kernel_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "worker/checked_card.h"
#include "worker/comparison.h"

namespace choir {
namespace {

// Products take so many columns, in steps of 64 or 128, that all stages of their pipelines are
// filled again (kernels/cuda/hopper/pipeline.cuh), but for those of many tiles. Left to the
// contract suites: linear's tiles of 128 outputs, merged products, rows rounded ahead, row ops.
class Comparison {
 public:
  Comparison(CheckedCard& card, const cuda::KernelTable& fast, const cuda::KernelTable& simple)
      : card_(card), fast_(fast), simple_(simple) {}

  // Both forms and both heights of tiles; K and N end within a tile. The first rows have the same
  // bits whatever is beside them.
  std::string Grouped(bool f8) {
    card_.Clear();
    constexpr int64_t kExperts = 3, kRowsEach = 70, kOutputs = 24, kWidth = 1296;
    constexpr int64_t kRows = kExperts * kRowsEach, kAcross = 11;
    const DType dtype = f8 ? DType::kF8E4M3 : DType::kBF16;
    const std::string name = fmt::format("grouped_gemm in {}", NameOf(dtype));
    GroupedGemmArgs args{.x = card_.Fill(dtype, {kRows, kWidth}),
                         .w = card_.Fill(dtype, {kExperts * kOutputs, kWidth}),
                         .y = card_.Make(DType::kF32, {kRows, kOutputs})};
    if (f8) {
      args.x_scale = card_.Fill(DType::kF32, {kRows, kAcross});
      args.w_scale = card_.Fill(DType::kF32, {kExperts, kAcross});
    }
    const int32_t many[] = {0, 139, 139, kRows};
    args.offsets = many;
    const std::vector<float> tall = Run(args, fast_);
    std::string differs = Difference(name, tall, Run(args, simple_), kOutputs, kF8Part);
    if (!differs.empty()) return differs;
    const int32_t few[] = {0, 9, 9, 11};
    GroupedGemmArgs part = args;
    part.offsets = few;
    part.x = args.x.Rows(0, 11);
    part.y = args.y.Rows(0, 11);
    if (f8) part.x_scale = args.x_scale.Rows(0, 11);
    const std::vector<float> low = Run(part, fast_);
    differs = BitsApart(name, std::span(low).first(9 * kOutputs), tall);
    if (!differs.empty()) return differs;
    differs = Difference(name, low, Run(part, simple_), kOutputs, kF8Part);
    if (!differs.empty()) return differs;
    return Masked(args, name);
  }

  // Both heights of tiles; K and N end within a tile, and K within a part of it; N is odd; y with
  // what was there before. The first rows have the same bits alone.
  std::string Linear(DType dtype, Compute compute) {
    card_.Clear();
    constexpr int64_t kRows = 70, kAlone = 3, kOutputs = 141, kWidth = 1088;
    const TensorView y = card_.Fill(DType::kF32, {kRows, kOutputs});
    LinearArgs args{.x = card_.Fill(DType::kF32, {kRows, kWidth}),
                    .w = card_.Fill(dtype, {kOutputs, kWidth}),
                    .bias = card_.Fill(DType::kBF16, {kOutputs}),
                    .y = card_.Make(DType::kF32, {kRows, kOutputs}),
                    .compute = compute,
                    .accumulate = true};
    if (dtype == DType::kF8E4M3) args.w_scale = card_.Fill(DType::kF32, {2, 9});
    const char* in = compute == Compute::kF32 ? " in f32" : "";
    const std::string name = fmt::format("linear{} of weights in {}", in, NameOf(dtype));
    const std::vector<float> got = Run(args, y, fast_);
    const std::string differs = Difference(name, got, Run(args, y, simple_), kOutputs, kF8Part);
    if (!differs.empty()) return differs;
    LinearArgs part = args;
    part.x = args.x.Rows(0, kAlone);
    part.y = args.y.Rows(0, kAlone);
    const std::vector<float> alone = Run(part, y.Rows(0, kAlone), fast_);
    return BitsApart(name, alone, got);
  }

  // More than two tiles a multiprocessor, so blocks go on to another one. A row has the same bits
  // alone.
  std::string LinearOfManyTiles(DType dtype) {
    card_.Clear();
    constexpr int64_t kRows = 3, kWidth = 64, kTileOutputs = 256;
    const int64_t outputs = 2 * card_.processors() * kTileOutputs + 141;
    LinearArgs args{.x = card_.Fill(DType::kF32, {kRows, kWidth}),
                    .w = card_.Fill(dtype, {outputs, kWidth}),
                    .y = card_.Make(DType::kF32, {kRows, outputs}),
                    .compute = Compute::kBF16};
    if (dtype == DType::kF8E4M3) {
      args.w_scale = card_.Fill(DType::kF32, {(outputs + kF8Side - 1) / kF8Side, 1});
    }
    const std::string name = fmt::format("linear in many tiles, weights in {}", NameOf(dtype));
    const std::vector<float> got = Run(args, {}, fast_);
    const std::string differs = Difference(name, got, Run(args, {}, simple_), outputs, kF8Part);
    if (!differs.empty()) return differs;
    args.x = args.x.Rows(0, 1);
    args.y = args.y.Rows(0, 1);
    return BitsApart(name, Run(args, {}, fast_), got);
  }

  // All heights of tiles; K and N end within a tile, heads of x lie apart. A row has the same bits
  // in each.
  std::string Heads(bool transpose) {
    card_.Clear();
    constexpr int64_t kRows = 130, kHeads = 2, kWidth = 392, kOutputs = 72, kPitch = kWidth + 64;
    const TensorView x = card_.Fill(DType::kF32, {kRows, kHeads, kPitch});
    const TensorView w = card_.Fill(DType::kBF16, {kHeads * kWidth, kOutputs});
    HeadProjectArgs args{
        .x = TensorView(x.raw(), DType::kF32, {kRows, kHeads, kWidth}),
        .x_token_stride = kHeads * kPitch,
        .x_head_stride = kPitch,
        .w = TensorView(w.raw(), DType::kBF16,
                        {transpose ? kOutputs : kWidth, transpose ? kWidth : kOutputs}),
        .w_head_stride = kWidth * kOutputs,
        .transpose = transpose,
        .y = card_.Make(DType::kF32, {kRows, kHeads, kOutputs}),
        .compute = Compute::kBF16};
    const std::string name = transpose ? "head_project, transposed" : "head_project";
    const std::vector<float> got = Run(args, fast_);
    std::string differs = Difference(name, got, Run(args, simple_), kHeads * kOutputs, kF8Part);
    for (const int64_t rows : {70, 3}) {
      args.x = args.x.Rows(0, rows);
      args.y = args.y.Rows(0, rows);
      if (differs.empty()) differs = BitsApart(name, Run(args, fast_), got);
    }
    return differs;
  }

  // Weights that are widened to bf16 by way of its subnormals, which may not become zeros.
  std::string LinearOfSubnormals() {
    card_.Clear();
    constexpr int64_t kRows = 3, kOutputs = 24, kWidth = 192;
    const LinearArgs args{.x = card_.Fill(DType::kF32, {kRows, kWidth}),
                          .w = card_.SubnormalsInF8({kOutputs, kWidth}),
                          .w_scale = card_.Fill(DType::kF32, {1, 2}),
                          .y = card_.Make(DType::kF32, {kRows, kOutputs}),
                          .compute = Compute::kBF16};
    const std::vector<float> got = Run(args, {}, fast_);
    return Difference("linear of subnormal weights in f8", got, Run(args, {}, simple_), kOutputs,
                      kF8Part);
  }

  // Rows in f32 that become bf16; both products.
  std::string Experts(DType dtype) {
    card_.Clear();
    constexpr int64_t kSide = 640, kRows = 8;
    const std::vector<ExpertWeights> experts = ManyOf(ThreeExperts(dtype, kSide, kSide));
    const std::vector<int32_t> offsets = OffsetsOfMany(3, 3, 2);
    const ExpertFfnArgs args{.x = card_.Fill(DType::kF32, {kRows, kSide}),
                             .offsets = offsets,
                             .experts = experts,
                             .y = card_.Make(DType::kF32, {kRows, kSide}),
                             .scratch = card_.Make(DType::kF32, {kRows, kSide}),
                             .compute = Compute::kBF16};
    const std::vector<float> got = Run(args, fast_);
    return Difference(fmt::format("expert_ffn of weights in {}", NameOf(dtype)), got,
                      Run(args, simple_), kSide, kRoundedPart);
  }

  // Products of f8 by f8, in both heights of tiles; rows and their scales lie apart. The first rows
  // have the same bits whatever is beside them.
  std::string ExpertsInF8() {
    card_.Clear();
    constexpr int64_t kHidden = 896, kInner = 768, kRows = 140, kStride = kHidden + 16;
    constexpr int64_t kAcross = kHidden / kF8Side, kFirst = 9, kFew = 14;
    const std::vector<ExpertWeights> three = ThreeExperts(DType::kF8E4M3, kHidden, kInner);
    const TensorView x = card_.Fill(DType::kF8E4M3, {kRows, kStride});
    const TensorView x_scale = card_.Fill(DType::kF32, {kRows, kAcross + 1});
    const int32_t offsets_of_two[] = {0, 130, kRows};
    ExpertFfnArgs args{.x = TensorView(x.raw(), x.dtype(), {kRows, kHidden}),
                       .x_scale = TensorView(x_scale.raw(), DType::kF32, {kRows, kAcross}),
                       .offsets = offsets_of_two,
                       .experts = std::span(three).first(2),
                       .y = card_.Make(DType::kF32, {kRows, kHidden}),
                       .scratch = card_.Make(DType::kF32, {kRows, kInner}),
                       .compute = Compute::kBF16,
                       .x_stride = kStride,
                       .x_scale_stride = kAcross + 1};
    const std::string name = "expert_ffn of rows in f8";
    const std::vector<float> tall = Run(args, fast_);
    std::string differs = Difference(name, tall, Run(args, simple_), kHidden, kF8StepPart);
    if (!differs.empty()) return differs;
    const std::vector<ExpertWeights> many = ManyOf(three);
    const std::vector<int32_t> offsets = OffsetsOfMany(kFirst, 3, 2);
    args.experts = many;
    args.offsets = offsets;
    for (TensorView* view : {&args.x, &args.x_scale, &args.y, &args.scratch}) {
      *view = view->Rows(0, kFew);
    }
    const std::vector<float> low = Run(args, fast_);
    differs = BitsApart(name, std::span(low).first(kFirst * kHidden), tall);
    if (!differs.empty()) return differs;
    return Difference(name + ", of many experts", low, Run(args, simple_), kHidden, kF8StepPart);
  }

  // Rows of one sequence on both sides of an end of a chunk, over pages in reverse order. They have
  // the same bits as parts and where there is no room for any.
  std::string Mla() {
    card_.Clear();
    constexpr int64_t kHeads = 64, kLora = 512, kRope = 64, kRows = 2, kLast = 1024, kTokens = 16;
    std::vector<int32_t> pages(kLast / kTokens + 1);
    for (size_t i = 0; i < pages.size(); ++i) {
      pages[i] = static_cast<int32_t>(pages.size() - 1 - i);
    }
    const int64_t num_pages = std::ssize(pages);
    const AttentionSequence sequence{0, kRows, kLast - kRows + 1, pages.data()};
    const MlaAttentionArgs args{
        .q_latent = card_.Fill(DType::kF32, {kRows, kHeads, kLora}),
        .q_rope = card_.Fill(DType::kF32, {kRows, kHeads, kRope}),
        .latent = {card_.Fill(DType::kBF16, {num_pages, kTokens, kLora + kRope})},
        .out = card_.Make(DType::kF32, {kRows, kHeads, kLora}),
        .sequences = {&sequence, 1},
        .scale = 0.05f};
    cuda::KernelStream stream = card_.stream();
    fast_.mla_attention(args, stream);
    const std::vector<float> got = Result(args.out, fast_, "mla_attention");
    stream.workspace = stream.workspace.first(size_t{16} << 10);
    fast_.mla_attention(args, stream);
    const std::vector<float> folded = Result(args.out, fast_, "mla_attention");
    if (std::memcmp(got.data(), folded.data(), got.size() * sizeof(float)) != 0) {
      return "mla_attention: bits depend on how keys are cut into parts";
    }
    simple_.mla_attention(args, card_.stream());
    const std::vector<float> want = Result(args.out, simple_, "mla_attention");
    return Difference("mla_attention", got, want, kHeads * kLora, kRoundedPart);
  }

  // All ways to choose; the vocabulary ends within what a block reads at once. The very ids.
  std::string Sample() {
    card_.Clear();
    constexpr int64_t kVocab = 20'003;
    const SampleRow rows[] = {{.temperature = 0},
                              {.seed = 1},
                              {.temperature = 0.7, .seed = 2, .position = 9, .top_k = 50},
                              {.top_p = 0.9, .seed = 3, .choice = 1},
                              {.top_p = 0.5, .seed = 4, .top_k = 1000},
                              {.temperature = 1.5, .min_p = 0.9, .seed = 5}};
    constexpr int64_t kRows = std::size(rows);
    const SampleArgs args{.logits = card_.Logits(kRows, kVocab),
                          .rows = rows,
                          .ids = card_.Make(DType::kI32, {kRows})};
    const std::vector<int32_t> got = Run(args, fast_), want = Run(args, simple_);
    for (size_t i = 0; i < want.size(); ++i) {
      if (got[i] != want[i]) {
        return fmt::format("sample: row {} gets token {} instead of {}", i, got[i], want[i]);
      }
    }
    return "";
  }

  // The fast op after which the card had its first error; empty: it was none of them.
  const std::string& failed() const { return failed_; }

 private:
  // Differences are parts of the largest result. None has to grow with K: errors of its steps are
  // independent and add up as the sums do, by the root of their number.
  //
  // Tensor cores add products of f8 with about 14 bits. What is cut off 33 terms is 1e-3, of 128
  // columns twice that, and their sum is 4 in the mean: an output is off by 1/2000 of the mean one,
  // and one of thousands by 1/1500 of the largest.
  static constexpr float kF8Part = 1.0f / 512;
  // Between two products values become bf16. One that differs in its last bits may become its
  // neighbour, 1/128 apart, and a result is of hundreds of them.
  static constexpr float kRoundedPart = 1.0f / 64;
  // Where they become f8 there, it is a fourteenth apart: of the largest value 1/60 of the largest
  // result.
  static constexpr float kF8StepPart = 1.0f / 16;

  // Matrices of three experts.
  std::vector<ExpertWeights> ThreeExperts(DType dtype, int64_t hidden, int64_t inner) {
    const int64_t down = hidden / kF8Side, across = inner / kF8Side;
    std::vector<ExpertWeights> experts(3);
    for (ExpertWeights& w : experts) {
      w.gate = card_.Fill(dtype, {inner, hidden});
      w.up = card_.Fill(dtype, {inner, hidden});
      w.down = card_.Fill(dtype, {hidden, inner});
      if (dtype != DType::kF8E4M3) continue;
      w.gate_scale = card_.Fill(DType::kF32, {across, down});
      w.up_scale = card_.Fill(DType::kF32, {across, down});
      w.down_scale = card_.Fill(DType::kF32, {down, across});
    }
    return experts;
  }

  std::vector<float> Run(const GroupedGemmArgs& args, const cuda::KernelTable& table) {
    card_.Spoil(args.y);
    table.grouped_gemm(args, card_.stream());
    return Result(args.y, table, "grouped_gemm");
  }
  std::vector<float> Run(const HeadProjectArgs& args, const cuda::KernelTable& table) {
    card_.Spoil(args.y);
    table.head_project(args, card_.stream());
    return Result(args.y, table, "head_project");
  }
  std::vector<float> Run(const ExpertFfnArgs& args, const cuda::KernelTable& table) {
    card_.Spoil(args.y);
    card_.Spoil(args.scratch);
    table.expert_ffn(args, card_.stream());
    return Result(args.y, table, "expert_ffn");
  }

  std::vector<int32_t> Run(const SampleArgs& args, const cuda::KernelTable& table) {
    card_.Spoil(args.ids);
    table.sample(args, card_.stream());
    return Result<int32_t>(args.ids, table, "sample");
  }

  // y begins as `before`; empty: it does not matter.
  std::vector<float> Run(const LinearArgs& args, const TensorView& before,
                         const cuda::KernelTable& table) {
    before.empty() ? card_.Spoil(args.y) : card_.Copy(args.y, before);
    table.linear(args, card_.stream());
    return Result(args.y, table, "linear");
  }

  template <class T = float>
  std::vector<T> Result(const TensorView& out, const cuda::KernelTable& table, const char* op) {
    const bool worked = card_.error() == nullptr;
    std::vector<T> values = card_.Read<T>(out);
    if (worked && card_.error() != nullptr && &table == &fast_) failed_ = op;
    return values;
  }

  std::string Masked(GroupedGemmArgs args, const std::string& name) {
    const int32_t counts[] = {5, 0, 66};
    args.offsets = {};
    args.counts = card_.Ints(counts);
    const int64_t outputs = args.y.dim(1);
    std::vector<float> got = Run(args, fast_), want = Run(args, simple_);
    // Rows that do not exist stay as they were: NaN, which is like nothing, not even itself.
    for (auto* values : {&got, &want}) {
      for (int64_t e = 0, each = args.x.dim(0) / args.counts.dim(0); e < args.counts.dim(0); ++e) {
        const auto begin = values->begin() + (e * each + counts[e]) * outputs;
        std::replace_if(
            begin, values->begin() + (e + 1) * each * outputs,
            [](float value) { return std::isnan(value); }, 0.0f);
      }
    }
    return Difference(name + ", masked", got, want, outputs, kF8Part);
  }

  CheckedCard& card_;
  const cuda::KernelTable& fast_;
  const cuda::KernelTable& simple_;
  std::string failed_;
};

}  // namespace

StatusOr<std::string> DifferenceOfKernels(const CardOfCheck& checked, const cuda::KernelTable& fast,
                                          const cuda::KernelTable& simple) {
  CheckedCard card(checked);
  if (card.error() != nullptr) return Unavailable("{}", card.error());
  Comparison comparison(card, fast, simple);
  std::string differs;
  for (const bool f8 : {false, true}) {
    if (differs.empty()) differs = comparison.Grouped(f8);
    const DType weights = f8 ? DType::kF8E4M3 : DType::kBF16;
    if (differs.empty()) differs = comparison.Linear(weights, Compute::kBF16);
    const DType of_router = f8 ? DType::kF32 : DType::kBF16;
    if (differs.empty()) differs = comparison.Linear(of_router, Compute::kF32);
    if (differs.empty() && f8) differs = comparison.LinearOfSubnormals();
    if (differs.empty()) differs = comparison.LinearOfManyTiles(weights);
    if (differs.empty()) differs = comparison.Experts(weights);
  }
  for (const bool transpose : {false, true}) {
    if (differs.empty()) differs = comparison.Heads(transpose);
  }
  if (differs.empty()) differs = comparison.ExpertsInF8();
  if (differs.empty()) differs = comparison.Mla();
  if (differs.empty()) differs = comparison.Sample();
  const char* error = card.error();
  if (error == nullptr) return differs;
  if (comparison.failed().empty() || !card.GoesOn()) return Unavailable("{}", error);
  return fmt::format("{} cannot be started: {}", comparison.failed(), error);
}

}  // namespace choir
