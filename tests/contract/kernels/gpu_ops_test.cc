// Ops that only the GPU path has, against their oracle; and what holds for all simple kernels: the
// order in which the threads of a block take turns changes no bit.
#include "tests/contract/kernels/gpu_ops_test.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace choir {
namespace {

Tensor Ids(Random& random, int64_t tokens, int64_t top_k, int64_t low, int64_t high) {
  Tensor ids(DType::kI32, {tokens, top_k});
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    ids.view().data<int32_t>()[i] = static_cast<int32_t>(random.Int(low, high));
  }
  return ids;
}

TEST_P(GpuOps, PermutePlacesRowsByExpertAndPairAndLeavesOutThoseOfOtherRanks) {
  ForSeeds(30, [&](Random& random) {
    const int64_t tokens = random.Int(0, 60), top_k = random.Int(1, 8), experts = random.Int(1, 40);
    const int64_t width = random.Coin() ? random.Int(1, 200) : 4 * random.Int(1, 50);
    const int64_t stride = width + 4 * random.Int(0, 2) + (random.Int(0, 3) == 0 ? 1 : 0);
    const Tensor x = random.Values(DType::kF32, {tokens, stride});
    const Tensor ids = Ids(random, tokens, top_k, random.Coin() ? 0 : -3, experts + 2);
    const DType dtype = random.WeightType();
    const Tensor offsets(DType::kI32, {experts + 1}), want_offsets = offsets.Clone();
    const Tensor row_of(DType::kI32, {tokens * top_k}), want_rows = row_of.Clone();
    const Tensor y(dtype, {tokens * top_k, width}), want = y.Clone();
    const Tensor counts(DType::kI64, {experts}), want_counts = counts.Clone();
    PermuteArgs args{.x = TensorView(x.view().raw(), DType::kF32, {tokens, width}),
                     .x_stride = stride,
                     .expert_ids = ids,
                     .offsets = offsets,
                     .row_of = row_of,
                     .counts = counts,
                     .y = y};
    gpu_.permute(args, Any(random));
    args.counts = want_counts;
    args.offsets = want_offsets;
    args.row_of = want_rows;
    args.y = want;
    reference::Permute(args);
    ExpectSameBytes(offsets, want_offsets, "offsets");
    ExpectSameBytes(row_of, want_rows, "rows");
    ExpectSameBytes(counts, want_counts, "counts");
    ExpectSameBytes(y, want, "y");
  });
}

TEST_P(GpuOps, UnpermuteSumsWhatPermutePlaced) {
  ForSeeds(20, [&](Random& random) {
    const int64_t tokens = random.Int(1, 40), top_k = random.Int(1, 8), experts = random.Int(1, 20);
    const int64_t width = random.Int(1, 200);
    const Tensor x = random.Values(DType::kF32, {tokens, width});
    const Tensor ids = Ids(random, tokens, top_k, 0, experts);
    const Tensor offsets(DType::kI32, {experts + 1}), row_of(DType::kI32, {tokens * top_k});
    const Tensor y(DType::kF32, {tokens * top_k, width});
    gpu_.permute({.x = x, .expert_ids = ids, .offsets = offsets, .row_of = row_of, .y = y},
                 Any(random));
    const Tensor weights = random.Values(DType::kF32, {tokens, top_k});
    const Tensor got = random.Values(DType::kF32, {tokens, width}), want = got.Clone();
    UnpermuteArgs args{.y = y, .row_of = row_of, .weights = weights, .out = got};
    args.accumulate = random.Coin();
    gpu_.unpermute(args, Any(random));
    args.out = want;
    reference::Unpermute(args);
    for (int64_t i = 0; i < tokens * width; ++i) {
      ASSERT_NEAR(got.at(i), want.at(i), DotBound(4 * top_k, static_cast<double>(top_k) + 1));
    }
  });
}

Grouped MakeGrouped(Random& random) {
  Grouped c;
  const int64_t experts = random.Int(1, 6);
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t rows = random.Coin() ? random.Int(0, 40) : random.Int(0, 1);
    c.offsets.push_back(c.offsets.back() + static_cast<int32_t>(rows));
  }
  c.rows = c.offsets.back();
  c.outputs = random.Coin() ? random.Int(1, 160) : 64;
  c.width = random.Coin() ? random.Int(1, 300) : 128 * random.Int(1, 3);
  c.f8 = random.Coin();
  FillGrouped(random, &c);
  return c;
}

TEST_P(GpuOps, GroupedGemmAgreesWithItsOracleInBothFormats) {
  ForSeeds(40, [&](Random& random) {
    const Grouped c = MakeGrouped(random);
    const DType dtype = random.Coin() ? DType::kBF16 : DType::kF32;
    const Tensor got(dtype, {c.rows, c.outputs}), want(dtype, {c.rows, c.outputs});
    gpu_.grouped_gemm(c.Args(got), Any(random));
    reference::GroupedGemm(c.Args(want));
    for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
      ASSERT_NEAR(got.at(i), want.at(i), GroupedBound(GetParam(), c, dtype, want.at(i)));
    }
  });
}

TEST_P(GpuOps, AGroupedRowHasTheSameBitsAlone) {
  ForSeeds(6, [&](Random& random) {
    const Grouped c = MakeGrouped(random);
    const Tensor whole(DType::kF32, {c.rows, c.outputs});
    gpu_.grouped_gemm(c.Args(whole), Any(random));
    size_t expert = 0;
    for (int64_t r = 0; r < c.rows; ++r) {
      while (r >= c.offsets[expert + 1]) ++expert;
      Grouped one = c;
      one.offsets.assign(c.offsets.size(), 0);
      std::fill(one.offsets.begin() + static_cast<int64_t>(expert) + 1, one.offsets.end(), 1);
      const Tensor y(DType::kF32, {1, c.outputs});
      GroupedGemmArgs args = one.Args(y);
      args.x = args.x.Rows(r, 1);
      if (c.f8) args.x_scale = args.x_scale.Rows(r, 1);
      gpu_.grouped_gemm(args, Any(random));
      ExpectSameBits(y.f32(), whole.f32() + r * c.outputs, c.outputs, "row");
    }
  });
}

TEST_P(GpuOps, GroupedGemmTakesCountsThatLieOnTheDevice) {
  ForSeeds(10, [&](Random& random) { ExpectMasked(random, gpu_, Any(random), GetParam()); });
}

TEST_P(GpuOps, QuantizeF8HasTheBitsOfItsOracle) {
  ForSeeds(30, [&](Random& random) {
    const int64_t rows = random.Int(0, 20), width = random.Int(1, 400);
    const float range = random.Coin() ? 3.0f : 1e-6f;
    const Tensor x = random.Values(random.WeightType(), {rows, width}, range);
    if (rows > 0 && x.view().dtype() == DType::kF32) x.f32()[0] = std::nanf("");
    const int64_t across = (width + 127) / 128;
    const Tensor got(DType::kF8E4M3, {rows, width}), want = got.Clone();
    const Tensor got_scale(DType::kF32, {rows, across}), want_scale = got_scale.Clone();
    gpu_.quantize_f8({.x = x, .y = got, .y_scale = got_scale}, Any(random));
    reference::QuantizeF8({.x = x, .y = want, .y_scale = want_scale});
    for (int64_t i = rows > 0 ? 128 : 0; i < rows * width; ++i) {  // sign of a NaN is free
      ASSERT_EQ(got.view().data<uint8_t>()[i], want.view().data<uint8_t>()[i]) << i;
    }
    if (rows > 0 && x.view().dtype() == DType::kF32) {
      EXPECT_TRUE(std::isnan(F8ToF32(got.view().data<uint8_t>()[0])));
    }
    ExpectSameBits(got_scale.f32(), want_scale.f32(), rows * across, "scale");
  });
}

TEST_P(GpuOps, DequantizeHasTheBitsOfItsOracle) {
  ForSeeds(30, [&](Random& random) {
    const DType format = random.AnyFormat();
    const int64_t rows = random.Int(1, 200), width = 32 * random.Int(1, 8);
    const Weights w = random.Matrix(format, rows, width);
    const Tensor got(random.WeightType(), {rows, width}), want = got.Clone();
    gpu_.dequantize({.w = w.w, .w_scale = w.scales(), .y = got}, Any(random));
    reference::Dequantize({.w = w.w, .w_scale = w.scales(), .y = want});
    ExpectSameBytes(got, want, "weights");
  });
}

TEST_P(GpuOps, DequantizesRowsByTheirOwnScales) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(1, 20), width = random.Int(1, 400);
    const Tensor x = random.Values(DType::kF32, {rows, width});
    const Tensor f8(DType::kF8E4M3, {rows, width});
    const Tensor scale(DType::kF32, {rows, (width + 127) / 128});
    reference::QuantizeF8({.x = x, .y = f8, .y_scale = scale});
    const Tensor got(random.WeightType(), {rows, width}), want = got.Clone();
    gpu_.dequantize({.w = f8, .w_scale = scale, .y = got}, Any(random));
    reference::Dequantize({.w = f8, .w_scale = scale, .y = want});
    ExpectSameBytes(got, want, "rows");
  });
}

TEST_P(GpuOps, TheOrderOfThreadsChangesNoBitOfRowsProductsAndChoices) {
  Random random(9);
  const Tensor x = random.Values(DType::kF32, {20, 300});
  const Tensor norm = random.Values(DType::kF32, {300});
  ExpectNoOrder(x, workspace_, [&](const Tensor& y, const cuda::KernelStream& s) {
    gpu_.rms_norm({.x = y, .w = norm, .y = y}, s);
  });
  const Weights w = random.Matrix(DType::kF8E4M3, 70, 300);
  const Tensor y(DType::kF32, {20, 70});
  ExpectNoOrder(y, workspace_, [&](const Tensor& out, const cuda::KernelStream& s) {
    gpu_.linear({.x = x, .w = w.w, .w_scale = w.scale, .bias = {}, .y = out}, s);
  });
  const Tensor weights(DType::kF32, {20, 8});
  const Tensor ids(DType::kI32, {20, 8});
  ExpectNoOrder(weights, workspace_, [&](const Tensor& out, const cuda::KernelStream& s) {
    gpu_.gate_top_k({.logits = x,
                     .score = GateScore::kSoftmax,
                     .num_groups = 4,
                     .groups_kept = 2,
                     .group_score = GroupScore::kSumOfBestTwo,
                     .normalize = true,
                     .expert_ids = ids,
                     .weights = out},
                    s);
  });
}

TEST_P(GpuOps, TheOrderOfThreadsChangesNoBitOfAttention) {
  Random random(10);
  const Tensor q = random.Values(DType::kF32, {3, 4, 40});
  const Tensor k = random.Values(DType::kBF16, {20, 16, 2 * 40});
  const Tensor v = random.Values(DType::kBF16, {20, 16, 2 * 24});
  std::vector<int32_t> table(20);
  std::iota(table.rbegin(), table.rend(), 0);
  const AttentionSequence sequence{0, 3, 297, table.data()};
  ExpectNoOrder(Tensor(DType::kF32, {3, 4, 24}), workspace_,
                [&](const Tensor& out, const cuda::KernelStream& s) {
                  gpu_.paged_attention({.q = q,
                                        .k = {k},
                                        .v = {v},
                                        .out = out,
                                        .sequences = {&sequence, 1},
                                        .kv_heads = 2,
                                        .scale = 0.2f},
                                       s);
                });
}

// On a card: the bits that the emulation promised. In the emulation: those of another order.
TEST_P(GpuOps, HaveTheBitsOfTheEmulation) {
  // Tensor cores round in a way of their own: nothing is promised of them but the order of threads.
  const cuda::KernelTable& emulated =
      GpuTable(OnTensorCores(GetParam()) ? GetParam() : "gpu_emulated");
  ForSeeds(10, [&](Random& random) {
    const int64_t rows = random.Int(1, 20), width = 32 * random.Int(1, 12);
    const Tensor x = random.Values(DType::kF32, {rows, width}, 3.0f);
    const Tensor norm = random.Values(DType::kBF16, {width});
    const Tensor got(DType::kF32, {rows, width}), want = got.Clone();
    gpu_.rms_norm({.x = x, .w = norm, .y = got}, Stream(Order::kBackward));
    emulated.rms_norm({.x = x, .w = norm, .y = want}, Stream(Order::kForward));
    ExpectSameBits(got.f32(), want.f32(), rows * width, "rms norm");
    gpu_.swi_glu({.gate = got, .up = x, .y = got}, Stream(Order::kBackward));
    emulated.swi_glu({.gate = want, .up = x, .y = want}, Stream(Order::kForward));
    ExpectSameBits(got.f32(), want.f32(), rows * width, "swi glu");
    const Weights w = random.Matrix(random.AnyFormat(), 50, width);
    const Tensor y(DType::kF32, {rows, 50}), want_y = y.Clone();
    LinearArgs linear{.x = x, .w = w.w, .w_scale = w.scales(), .bias = {}, .y = y};
    linear.compute = random.AnyCompute();
    gpu_.linear(linear, Stream(Order::kBackward));
    linear.y = want_y;
    emulated.linear(linear, Stream(Order::kForward));
    ExpectSameBits(y.f32(), want_y.f32(), rows * 50, "linear");
  });
}

TEST_P(GpuOps, AttentionOfManySequencesGoesInAsManyLaunchesAsTheWorkspaceNeeds) {
  Random random(11);
  constexpr int64_t kCount = 9;
  const Tensor q = random.Values(DType::kF32, {kCount, 1, 8});
  const Tensor k = random.Values(DType::kF32, {kCount * 4, 4, 8});
  const Tensor v = random.Values(DType::kF32, {kCount * 4, 4, 8});
  std::vector<int32_t> tables(static_cast<size_t>(kCount * 4));
  std::iota(tables.begin(), tables.end(), 0);
  std::vector<AttentionSequence> sequences;
  for (int32_t i = 0; i < kCount; ++i) sequences.push_back({i, 1, 12 + i % 4, &tables[4 * i]});
  const Tensor whole(DType::kF32, {kCount, 1, 8}), parts = whole.Clone();
  PagedAttentionArgs args{
      .q = q, .k = {k}, .v = {v}, .out = whole, .sequences = sequences, .kv_heads = 1};
  gpu_.paged_attention(args, {.workspace = workspace_});
  args.out = parts;
  gpu_.paged_attention(args, {.workspace = workspace_.first(512)});
  ExpectSameBits(parts.f32(), whole.f32(), kCount * 8, "parts");
}

INSTANTIATE_TEST_SUITE_P(Tables, GpuOps, testing::ValuesIn(GpuTableNames()), NameOfParam);

}  // namespace
}  // namespace choir
