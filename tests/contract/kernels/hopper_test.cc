// The products of the Hopper rung: shapes that its own kernels take, in both forms and both
// heights of tiles. What it leaves to the rung below is in the suites of that one.
#include <cmath>
#include <set>

#include "kernels/cuda/hopper/tiles.cuh"
#include "kernels/cuda/rounded_rows.cuh"
#include "tests/contract/kernels/gpu_ops_test.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

using HopperOps = GpuOps;

// Rows of x and w on multiples of 16 bytes, an even number of outputs; experts with no, one, few
// and more rows than a tile has.
Grouped MakeHopperGrouped(Random& random) {
  Grouped c;
  const int64_t experts = random.Int(1, 4);
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t most[] = {0, 1, 40, 150};
    c.offsets.push_back(c.offsets.back() + static_cast<int32_t>(random.Int(0, most[e % 4])));
  }
  c.offsets.back() += random.Coin() ? 70 * static_cast<int32_t>(experts) : 1;  // tall tiles, or not
  c.rows = c.offsets.back();
  c.f8 = random.Coin();
  c.outputs = random.Coin() ? 2 * random.Int(1, 160) : 256;
  c.width = random.Coin() ? 16 * random.Int(1, 20) : 128 * random.Int(1, 3);
  FillGrouped(random, &c);
  return c;
}

TEST_P(HopperOps, GroupedGemmAgreesWithItsOracleInBothFormats) {
  ForSeeds(20, [&](Random& random) {
    const Grouped c = MakeHopperGrouped(random);
    const DType dtype = random.Coin() ? DType::kBF16 : DType::kF32;
    const Tensor got(dtype, {c.rows, c.outputs}), want(dtype, {c.rows, c.outputs});
    gpu_.grouped_gemm(c.Args(got), Any(random));
    reference::GroupedGemm(c.Args(want));
    for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
      ASSERT_NEAR(got.at(i), want.at(i), GroupedBound(GetParam(), c, dtype, want.at(i))) << i;
    }
  });
}

TEST_P(HopperOps, AGroupedRowHasTheSameBitsAlone) {
  ForSeeds(4, [&](Random& random) {
    const Grouped c = MakeHopperGrouped(random);
    const Tensor whole(DType::kF32, {c.rows, c.outputs});
    gpu_.grouped_gemm(c.Args(whole), Any(random));
    size_t expert = 0;
    for (int64_t r = 0; r < c.rows; r += 17) {
      while (r >= c.offsets[expert + 1]) ++expert;
      Grouped one = c;
      one.offsets.assign(c.offsets.size(), 0);
      std::fill(one.offsets.begin() + static_cast<int64_t>(expert) + 1, one.offsets.end(), 1);
      const Tensor row = one.Row(r), scale = one.RowScale(r), y(DType::kF32, {1, c.outputs});
      GroupedGemmArgs args = one.Args(y);
      args.x = row;
      if (c.f8) args.x_scale = scale;
      gpu_.grouped_gemm(args, Any(random));
      ExpectSameBits(y.f32(), whole.f32() + r * c.outputs, c.outputs, "row");
    }
  });
}

TEST_P(HopperOps, TheOrderOfThreadsAndCopiesChangesNoBitOfGroupedProducts) {
  Random random(21);
  for (const bool f8 : {false, true}) {
    Grouped c;
    c.offsets = {0, 3, 3, 75};
    c.rows = 75;
    c.outputs = 200;
    c.width = 1600;  // far more steps than stages
    c.f8 = f8;
    FillGrouped(random, &c);
    for (uint32_t shuffle = 0; shuffle < GpuSeeds(3); ++shuffle) {
      ExpectNoOrder(Tensor(DType::kF32, {c.rows, c.outputs}), workspace_,
                    [&](const Tensor& out, const cuda::KernelStream& s) {
                      gpu_.grouped_gemm(c.Args(out), s);
                    });
    }
  }
}

TEST_P(HopperOps, GroupedGemmTakesCountsThatLieOnTheDevice) {
  ForSeeds(8, [&](Random& random) { ExpectMasked(random, gpu_, Any(random), GetParam()); });
}

TEST_P(HopperOps, MoreExpertsThanALaunchTakesGoInSeveral) {
  constexpr int64_t kSide = 64;
  constexpr size_t kExperts = 130;
  Random random(31);
  std::vector<Tensor> matrices;
  std::vector<ExpertWeights> experts(kExperts);
  for (ExpertWeights& w : experts) {
    for (TensorView* view : {&w.gate, &w.up, &w.down}) {
      *view = matrices.emplace_back(random.Values(DType::kBF16, {kSide, kSide}));
    }
  }
  std::vector<int32_t> offsets(kExperts + 1);
  for (size_t e = 0; e < kExperts; ++e) offsets[e + 1] = offsets[e] + (e % 63 < 2 ? 1 : 0);
  const int64_t rows = offsets.back();
  const Tensor got(DType::kF32, {rows, kSide}), want = got.Clone();
  const Tensor scratch(DType::kF32, {rows, kSide});
  const Tensor x = random.Values(DType::kF32, {rows, kSide}, 0.3f);
  ExpertFfnArgs args{.x = x,
                     .offsets = offsets,
                     .experts = experts,
                     .y = got,
                     .scratch = scratch,
                     .compute = Compute::kBF16};
  gpu_.expert_ffn(args, Any(random));
  args.y = want;
  GpuTable("gpu_emulated").expert_ffn(args, Any(random));
  // A product of glu's may round to either of two bf16 values, of 2^-8 of it.
  for (int64_t i = 0; i < rows * kSide; ++i) ASSERT_NEAR(got.at(i), want.at(i), 0.05) << i;
}

// One row picks out a code of f8 each output: all come out as their values, but for NaN, which no
// weights have that were loaded. What becomes of that says that the rung below was not asked.
TEST_P(HopperOps, LinearReadsEveryCodeOfF8) {
  constexpr int64_t kWidth = 64, kCodes = 256;
  const Tensor w(DType::kF8E4M3, {kCodes, kWidth}), scale(DType::kF32, {2, 1});
  for (int64_t code = 0; code < kCodes; ++code) {
    static_cast<uint8_t*>(w.view().raw())[code * kWidth + code % kWidth] =
        static_cast<uint8_t>(code);
  }
  scale.f32()[0] = scale.f32()[1] = 1.0f;
  const Tensor x(DType::kF32, {1, kWidth}), y(DType::kF32, {1, kCodes});
  std::fill_n(x.f32(), kWidth, 1.0f);
  gpu_.linear({.x = x, .w = w, .w_scale = scale, .bias = {}, .y = y, .compute = Compute::kBF16},
              Stream(Order::kForward));
  for (int64_t code = 0; code < kCodes; ++code) {
    const float value = F8ToF32(static_cast<uint8_t>(code));
    const float want = std::isnan(value) ? std::copysign(480.0f, code < 128 ? 1.0f : -1.0f) : value;
    EXPECT_EQ(y.at(code), want) << "code " << code;
  }
}

// A product in bf16 with bias, added to what y was.
struct Dense {
  Dense(Random& random, DType dtype, int64_t rows, int64_t outputs, int64_t width)
      : x(random.Values(DType::kF32, {rows, width})),
        bias(random.Values(DType::kF32, {outputs})),
        y(random.Values(DType::kF32, {rows, outputs})),
        w(random.Matrix(dtype, outputs, width)) {}
  LinearArgs Args(const Tensor& out) const {
    return {.x = x,
            .w = w.w,
            .w_scale = w.scales(),
            .bias = bias,
            .y = out,
            .compute = Compute::kBF16,
            .accumulate = true};
  }
  Tensor x, bias, y;
  Weights w;
};

TEST_P(HopperOps, TheOrderOfThreadsAndCopiesChangesNoBitOfLinear) {
  Random random(22);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const Dense c(random, dtype, 70, 141, 1024);
    ExpectNoOrder(c.y, workspace_, [&](const Tensor& out, const cuda::KernelStream& s) {
      gpu_.linear(c.Args(out), s);
    });
  }
}

// Rows in bf16 as `order` has them, further apart than they are wide.
struct Rounded {
  Rounded(const Tensor& x, RowOrder order) {
    const int64_t rows = x.view().dim(0), width = x.view().dim(1), pitch = width + 24;
    memory = Tensor(DType::kBF16, {rows, pitch});
    for (int64_t i = 0; i < rows * width; ++i) {
      const int64_t k = i % width;
      const int64_t place =
          order == RowOrder::kForF8 ? k / 64 * 64 + cuda::PlaceOf(static_cast<int>(k % 64)) : k;
      memory.view().b16()[i / width * pitch + place] = ToBF16(x.f32()[i]);
    }
    rows_ = {memory.view().b16(), pitch, order};
  }
  Tensor memory;
  RoundedRows rows_;
};

// x is no number there: who reads it instead shows.
TEST_P(HopperOps, LinearTakesRowsThatWereRoundedForItsWeights) {
  Random random(26);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (const int64_t rows : {1, 5, 70, 200}) {
      const Dense c(random, dtype, rows, 141, 384);
      const Tensor want = c.y.Clone(), got = c.y.Clone();
      gpu_.linear(c.Args(want), Any(random));
      const Rounded rounded(c.x, gpu_.order_of_rows(dtype, 384, Compute::kBF16));
      const Tensor nothing(DType::kF32, {rows, 384});
      std::fill_n(nothing.f32(), rows * 384, std::numeric_limits<float>::quiet_NaN());
      LinearArgs args = c.Args(got);
      args.x = nothing;
      args.rounded = rounded.rows_;
      gpu_.linear(args, Any(random));
      ExpectSameBits(got.f32(), want.f32(), rows * 141, "rounded");
      // Those in another order are not for it.
      const bool f8 = dtype == DType::kF8E4M3;
      const Rounded other(c.x, f8 ? RowOrder::kPlain : RowOrder::kForF8);
      args = c.Args(got);
      std::copy_n(c.y.f32(), rows * 141, got.f32());
      args.rounded = other.rows_;
      gpu_.linear(args, Any(random));
      ExpectSameBits(got.f32(), want.f32(), rows * 141, "rounded for others");
    }
  }
}

// Experts' rows lie one behind the other.
TEST_P(HopperOps, ExpertsTakeRowsThatWereRoundedForTheirWeights) {
  Random random(27);
  constexpr int64_t kHidden = 256, kInner = 128, kRows = 9;
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const Weights gate = random.Matrix(dtype, kInner, kHidden),
                  up = random.Matrix(dtype, kInner, kHidden),
                  down = random.Matrix(dtype, kHidden, kInner);
    const std::vector<ExpertWeights> experts = {{.gate = gate.w,
                                                 .up = up.w,
                                                 .down = down.w,
                                                 .gate_scale = gate.scales(),
                                                 .up_scale = up.scales(),
                                                 .down_scale = down.scales()}};
    const std::vector<int32_t> offsets = {0, kRows};
    const Tensor x = random.Values(DType::kF32, {kRows, kHidden}, 0.3f);
    const Tensor got(DType::kF32, {kRows, kHidden}), want = got.Clone();
    const Tensor scratch(DType::kF32, {kRows, kInner});
    ExpertFfnArgs args{.x = x,
                       .offsets = offsets,
                       .experts = experts,
                       .y = want,
                       .scratch = scratch,
                       .compute = Compute::kBF16};
    gpu_.expert_ffn(args, Any(random));
    const RowOrder order = gpu_.order_of_rows(dtype, kHidden, Compute::kBF16);
    const Rounded rounded(x, order);
    const Tensor dense(DType::kBF16, {kRows, kHidden});
    for (int64_t r = 0; r < kRows; ++r) {
      std::copy_n(rounded.rows_.data + r * rounded.rows_.pitch, kHidden,
                  dense.view().b16() + r * kHidden);
    }
    args.x = dense;
    args.x_order = order;
    args.y = got;
    gpu_.expert_ffn(args, Any(random));
    ExpectSameBits(got.f32(), want.f32(), kRows * kHidden, "rounded");
  }
}

// The workspace is what bounds how many rows are rounded at once.
TEST_P(HopperOps, LinearHasTheSameBitsWithLittleWorkspace) {
  Random random(23);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const Dense c(random, dtype, 150, 40, 64);
    const Tensor whole = c.y.Clone();
    gpu_.linear(c.Args(whole), Stream(Order::kForward));
    for (const size_t rows_at_once : {61, 140}) {
      const Tensor parts = c.y.Clone();
      cuda::KernelStream little = Stream(Order::kForward);
      little.workspace = workspace_.first((rows_at_once * 64 * 2 + 255) / 256 * 256);
      gpu_.linear(c.Args(parts), little);
      ExpectSameBits(parts.f32(), whole.f32(), 150 * 40, "rows");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Hopper, HopperOps, testing::ValuesIn(HopperTableNames()), NameOfParam);

// A card of few multiprocessors has wide tiles sooner: here of 64, 128 and 256 outputs.
TEST(HopperLinear, HasTheSameBitsOnACardOfAnySize) {
  Random random(25);
  const std::shared_ptr<std::byte> memory = TestBytes(size_t{1} << 20);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (const int64_t rows : {3, 70}) {
      const Dense c(random, dtype, rows, 301, 192);
      Tensor first;
      for (const int multiprocessors : {132, 1, 4, 9}) {
        emulation::SetEmulatedCard({multiprocessors, emulation::kEmulatedCard.shared_bytes});
        const Tensor y = c.y.Clone();
        GpuTable("gpu_hopper_emulated")
            .linear(c.Args(y), {nullptr, {memory.get(), size_t{1} << 20}});
        if (first.view().rank() == 0) first = y;
        ExpectSameBits(y.f32(), first.f32(), rows * 301, "card");
      }
    }
  }
  emulation::SetEmulatedCard(emulation::kEmulatedCard);
}

TEST(HopperLinear, UploadsNothingThatAGraphCouldNotHold) {
  Random random(24);
  const Dense c(random, DType::kBF16, 3, 8, 64);
  const Tensor y = c.y.Clone();
  const std::shared_ptr<std::byte> memory = TestBytes(4096);
  emulation::EmulatedStream stream;
  stream.recording = std::make_unique<emulation::EmulatedGraph>();
  GpuTable("gpu_hopper_emulated").linear(c.Args(y), {&stream, {memory.get(), 4096}});
  EXPECT_FALSE(stream.spoiled);
}

// An op of each kind on shapes that are Hopper's. True where it left an error behind, and every
// result as it was: no other kernel has computed it.
class HopperRefusals : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(devices_.use(0), nullptr); }
  void TearDown() override {
    emulation::RefuseMaps(false);
    emulation::SetEmulatedCard(emulation::kEmulatedCard);
    devices_.forget();
  }

  void ExpectRefused(const Tensor& out, const std::function<void()>& op) {
    const Tensor before = out.Clone();
    devices_.forget();
    ASSERT_EQ(devices_.poll(), nullptr);
    op();
    EXPECT_NE(devices_.poll(), nullptr);
    ExpectSameBytes(out, before, "result");
  }
  void ExpectAllRefused() {
    Random random(26);
    const cuda::KernelTable& hopper = GpuTable("gpu_hopper_emulated");
    const std::shared_ptr<std::byte> memory = TestBytes(size_t{1} << 20);
    const cuda::KernelStream stream{nullptr, {memory.get(), size_t{1} << 20}};
    for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
      const Dense dense(random, dtype, 3, 8, 64);
      ExpectRefused(dense.y, [&] { hopper.linear(dense.Args(dense.y), stream); });
    }
    Grouped grouped;
    grouped.offsets = {0, 3};
    grouped.rows = 3, grouped.outputs = 8, grouped.width = 16;
    FillGrouped(random, &grouped);
    const Tensor y(DType::kF32, {3, 8});
    ExpectRefused(y, [&] { hopper.grouped_gemm(grouped.Args(y), stream); });
    const Tensor matrix = random.Values(DType::kBF16, {64, 64});
    const ExpertWeights expert{.gate = matrix, .up = matrix, .down = matrix};
    const Tensor x = random.Values(DType::kBF16, {3, 64}), scratch(DType::kF32, {3, 64});
    const Tensor out(DType::kF32, {3, 64});
    const ExpertFfnArgs ffn{.x = x,
                            .offsets = grouped.offsets,
                            .experts = {std::span(&expert, 1)},
                            .y = out,
                            .scratch = scratch,
                            .compute = Compute::kBF16};
    ExpectRefused(out, [&] { hopper.expert_ffn(ffn, stream); });
  }

  const cuda::DeviceTable& devices_ = emulation::EmulatedDevices();
};

TEST_F(HopperRefusals, AMapThatTheDriverRefusesIsAnErrorAndNoOtherKernelRuns) {
  emulation::RefuseMaps(true);
  ExpectAllRefused();
}

TEST_F(HopperRefusals, ALaunchThatTheCardRefusesIsAnErrorAndNoOtherKernelRuns) {
  emulation::SetEmulatedCard({4, 48 * 1024});
  ExpectAllRefused();
}

// Tiles of rows that use the same weights come one after the other, so that weights are read once.
TEST(TileWalk, MeetsEachTileOnceAndThoseOfTheSameWeightsTogether) {
  constexpr int kRows = 64;
  using Walk = cuda::TileWalk<kRows>;
  const int32_t offsets[] = {0, 130, 130, 130 + kRows * (Walk::kBand + 1)};
  const cuda::RowGroups groups{.offsets = offsets, .experts = 3};
  std::set<std::vector<int32_t>> met;
  cuda::RowTile tile{}, before{.expert = -1};
  for (Walk walk(groups, 5, 0, 1); walk.Next(&tile); before = tile) {
    EXPECT_TRUE(met.insert({tile.row0, tile.output_tile}).second);
    EXPECT_EQ(tile.rows, tile.expert == 0 && tile.row0 == 2 * kRows ? 2 : kRows);
    const bool next_weights = tile.row0 <= before.row0;
    if (tile.expert == before.expert && tile.row0 < offsets[tile.expert] + Walk::kBand * kRows) {
      EXPECT_EQ(tile.output_tile, before.output_tile + (next_weights ? 1 : 0));
    }
  }
  EXPECT_EQ(met.size(), size_t{5 * (3 + Walk::kBand + 1)});
  const cuda::RowGroups one{.rows_each = 70, .experts = 1};
  Walk last(one, 1, 1, 132);
  EXPECT_TRUE(last.Next(&tile) && tile.row0 == kRows && tile.rows == 6 && !last.Next(&tile));
}

}  // namespace
}  // namespace choir
