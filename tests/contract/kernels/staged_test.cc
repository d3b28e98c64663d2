// GPU ops whose small values only the device has, as in a step that is a graph: the bits are those
// of the values given by the host, and padding changes nothing.
#include <algorithm>
#include <numeric>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class StagedValues : public KernelsTest {
 protected:
  // `values` where the device reads them, and nowhere else.
  template <class T>
  Staged<T> OnDevice(const std::vector<T>& values) {
    const std::shared_ptr<const T> copy = CopyForDevice(values);
    kept_.push_back(copy);
    return {nullptr, values.size(), copy.get()};
  }

 private:
  std::vector<std::shared_ptr<const void>> kept_;
};

class StagedExperts : public StagedValues {};

std::vector<std::string> GpuSets(std::vector<std::string> names = ProductKernelSets()) {
  std::erase_if(names, [](const std::string& n) { return !n.starts_with("gpu"); });
  return names;
}

TEST_P(StagedExperts, ExpertsFindTheirTilesFromOffsetsThatTheHostNeverSees) {
  ForSeeds(12, [&](Random& random) {
    const int64_t experts = random.Coin() ? random.Int(1, 7) : 130;
    const bool hopper = IsHopper(GetParam());  // which takes these shapes itself
    const int64_t hidden = hopper ? 128 : 32, inner = hopper ? 64 : 16;
    const Compute compute = hopper ? Compute::kBF16 : random.AnyCompute();
    const DType dtype = hopper ? DType::kBF16 : random.WeightType();
    std::vector<int32_t> offsets = {0};
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t rows = random.Int(0, experts > 7 ? 1 : 3) == 0 ? random.Int(0, 40) : 0;
      offsets.push_back(std::min(offsets.back() + static_cast<int32_t>(rows), 90));
    }
    std::vector<Weights> kept;
    std::vector<ExpertWeights> weights(static_cast<size_t>(experts));
    for (ExpertWeights& w : weights) {
      w.gate = kept.emplace_back(random.Matrix(dtype, inner, hidden)).w;
      w.up = kept.emplace_back(random.Matrix(dtype, inner, hidden)).w;
      w.down = kept.emplace_back(random.Matrix(dtype, hidden, inner)).w;
    }
    const int64_t rows = offsets.back(), most = rows + random.Int(0, 30);
    const Tensor x = random.Values(DType::kF32, {most, hidden});
    const Tensor got = random.Values(DType::kF32, {most, hidden}), want = got.Clone();
    const Tensor scratch(DType::kF32, {most, inner});
    ExpertFfnArgs args{.x = x.view().Rows(0, rows),
                       .offsets = offsets,
                       .experts = weights,
                       .y = want.view().Rows(0, rows),
                       .scratch = scratch,
                       .compute = compute};
    kernels_->ExpertFfn(args, Any(random));
    args.x = x;
    args.y = got;
    args.offsets = OnDevice(offsets);
    args.experts.device = OnDevice(weights).device;
    kernels_->ExpertFfn(args, Any(random));
    ExpectSameBits(got.f32(), want.f32(), rows * hidden, "rows");
  });
}

// Sequences of one row each, and as many that only pad.
struct Decode {
  std::vector<AttentionSequence> batch;
  std::vector<std::vector<int32_t>> tables;
};

Decode MakeDecode(Random& random, int32_t count, int32_t blocks, int64_t block_tokens) {
  Decode d;
  for (int32_t i = 0; i < count; ++i) {
    std::vector<int32_t>& table = d.tables.emplace_back();
    for (int32_t b = 0; b < blocks; ++b) table.push_back(i * blocks + b);
    d.batch.push_back(
        {.row_begin = i,
         .row_count = 1,
         .first_position = static_cast<int32_t>(random.Int(0, blocks * block_tokens - 1)),
         .block_table = table.data()});
  }
  return d;
}

TEST_P(StagedValues, AttentionHasTheBitsOfSequencesFromTheHostAndLeavesPaddingAlone) {
  ForSeeds(8, [&](Random& random) {
    const auto count = static_cast<int32_t>(random.Int(1, 5));
    const int64_t rows = count + random.Int(0, 3), heads = 4, dim = 16;
    constexpr int32_t kBlocks = 40;
    const Decode d = MakeDecode(random, count, kBlocks, 4);
    const Tensor q = random.Values(DType::kF32, {rows, heads, dim});
    const Tensor k = random.Values(DType::kBF16, {count * kBlocks, 4, 2 * dim});
    const Tensor v = random.Values(DType::kBF16, {count * kBlocks, 4, 2 * dim});
    const Tensor got = random.Values(DType::kF32, {rows, heads, dim}), want = got.Clone();
    PagedAttentionArgs args{.q = q,
                            .k = {k},
                            .v = {v},
                            .out = want,
                            .sequences = d.batch,
                            .kv_heads = 2,
                            .scale = 0.3f,
                            .window = random.Coin() ? 20 : 0};
    kernels_->PagedAttention(args, Any(random));
    std::vector<AttentionSequence> there = d.batch;
    for (size_t i = 0; i < there.size(); ++i) {
      there[i].block_table = OnDevice(d.tables[i]).device;
    }
    there.resize(static_cast<size_t>(rows),
                 {.row_begin = static_cast<int32_t>(rows), .block_table = nullptr});
    args.out = got;
    args.sequences = OnDevice(there);
    args.keys_max = 512;
    kernels_->PagedAttention(args, Any(random));
    ExpectSameBits(got.f32(), want.f32(), rows * heads * dim, "gqa");
    const Tensor latent_out = random.Values(DType::kF32, {rows, heads, 24}),
                 latent_want = latent_out.Clone();
    const Tensor latent = random.Values(DType::kF32, {rows, heads, 24}),
                 rope = random.Values(DType::kF32, {rows, heads, 8});
    MlaAttentionArgs mla{.q_latent = latent,
                         .q_rope = rope,
                         .latent = {k},
                         .out = latent_want,
                         .sequences = d.batch,
                         .scale = 0.3f};
    kernels_->MlaAttention(mla, Any(random));
    mla.out = latent_out;
    mla.sequences = OnDevice(there);
    mla.keys_max = 512;
    kernels_->MlaAttention(mla, Any(random));
    ExpectSameBits(latent_out.f32(), latent_want.f32(), rows * heads * 24, "mla");
  });
}

TEST_P(StagedValues, ARowWithoutASlotIsStoredNowhere) {
  Random random(3);
  const Tensor x = random.Values(DType::kF32, {4, 5});
  const Tensor pool = random.Values(DType::kF32, {2, 3, 5}), before = pool.Clone();
  kernels_->StoreKv({.x = x, .kv = {pool}, .slots = OnDevice(std::vector<int64_t>{4, -1, 0, -1})},
                    StreamOf(1));
  for (int64_t i = 0; i < 30; ++i) {
    const int64_t slot = i / 5;
    const float want = slot == 4   ? x.f32()[i % 5]
                       : slot == 0 ? x.f32()[10 + i % 5]
                                   : before.f32()[i];
    EXPECT_EQ(pool.f32()[i], want) << i;
  }
}

TEST_P(StagedValues, PaddingChoosesNoExpertAndIsNotCounted) {
  Random random(4);
  constexpr int64_t kRows = 6, kReal = 4, kTopK = 3, kExperts = 8, kWidth = 10;
  const Tensor logits = random.Values(DType::kF32, {kRows, kExperts});
  const Tensor ids(DType::kI32, {kRows, kTopK}), want_ids = ids.Clone();
  const Tensor weights(DType::kF32, {kRows, kTopK}), want_weights = weights.Clone();
  GateTopKArgs gate{.logits = logits, .expert_ids = want_ids, .weights = want_weights};
  kernels_->GateTopK(gate, StreamOf(1));
  gate.expert_ids = ids;
  gate.weights = weights;
  gate.num_rows = OnDevice(std::vector<int32_t>{kReal}).device;
  kernels_->GateTopK(gate, StreamOf(1));
  const auto* chosen = ids.view().data<int32_t>();
  for (int64_t i = 0; i < kRows * kTopK; ++i) {
    EXPECT_EQ(chosen[i], i < kReal * kTopK ? want_ids.view().data<int32_t>()[i] : -1) << i;
  }
  ExpectSameBits(weights.f32(), want_weights.f32(), kReal * kTopK, "weights");
  const Tensor x = random.Values(DType::kF32, {kRows, kWidth}),
               y(DType::kF32, {kRows * kTopK, kWidth});
  const Tensor offsets(DType::kI32, {kExperts + 1}), row_of(DType::kI32, {kRows * kTopK});
  const Tensor counts(DType::kI64, {kExperts});
  counts.view().data<int64_t>()[2] = 100;
  const PermuteArgs permute{
      .x = x, .expert_ids = ids, .offsets = offsets, .row_of = row_of, .counts = counts, .y = y};
  kernels_->Permute(permute, StreamOf(1));
  EXPECT_EQ(offsets.view().data<int32_t>()[kExperts], kReal * kTopK);
  for (int32_t e = 0; e < kExperts; ++e) {
    EXPECT_EQ(counts.view().data<int64_t>()[e],
              std::count(chosen, chosen + kReal * kTopK, e) + (e == 2 ? 100 : 0));
  }
  const Tensor out = random.Values(DType::kF32, {kRows, kWidth}), before = out.Clone();
  kernels_->Unpermute({.y = y, .row_of = row_of, .weights = weights, .out = out}, StreamOf(1));
  ExpectSameBits(out.f32() + kReal * kWidth, before.f32() + kReal * kWidth,
                 (kRows - kReal) * kWidth, "padding");
}

TEST_P(StagedValues, SamplingTakesParametersFromTheDevice) {
  Random random(5);
  const Tensor logits = random.Values(DType::kF32, {3, 300}, 4.0f);
  const Tensor ids(DType::kI32, {3}), want = ids.Clone();
  std::vector<SampleRow> rows(3, {.temperature = 0.8, .top_p = 0.9, .seed = 9});
  rows[1].temperature = 0.0;
  rows[2].top_k = 7;
  ASSERT_TRUE(kernels_->TrySample({.logits = logits, .rows = rows, .ids = want}, StreamOf(1)));
  ASSERT_TRUE(
      kernels_->TrySample({.logits = logits, .rows = OnDevice(rows), .ids = ids}, StreamOf(1)));
  EXPECT_EQ(std::memcmp(ids.view().raw(), want.view().raw(), 12), 0);
}

INSTANTIATE_TEST_SUITE_P(Sets, StagedExperts,
                         testing::ValuesIn(GpuSets(ProductKernelSetsAndHopper())), NameOfParam);
INSTANTIATE_TEST_SUITE_P(Sets, StagedValues, testing::ValuesIn(GpuSets()), NameOfParam);

}  // namespace
}  // namespace choir
