#include <cmath>
#include <limits>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class ElementwiseContract : public KernelsTest {
 protected:
  // Both results within `units` roundings of a value of about `size`.
  static void ExpectNear(const Tensor& got, const Tensor& want, double units, double size = 0.0) {
    for (int64_t i = 0; i < want.view().num_elements(); ++i) {
      const double bound = units * kUnit * std::max(size, std::abs(want.at(i)));
      ASSERT_NEAR(got.at(i), want.at(i), bound) << "element " << i;
    }
  }
};

Tensor Indices(Random& random, int64_t count, int64_t limit) {
  Tensor t(DType::kI32, {count});
  for (int64_t i = 0; i < count; ++i) {
    t.view().data<int32_t>()[i] = static_cast<int32_t>(random.Int(0, limit - 1));
  }
  return t;
}

// A size of which fast kernels take the one half, and leave the other to simple ones.
int64_t Size(Random& random, int64_t most) {
  return random.Coin() ? random.Int(1, most) : 4 * random.Int(1, most / 4);
}

TEST_P(ElementwiseContract, EmbeddingCopiesRowsExactly) {
  ForSeeds(10, [&](Random& random) {
    const int64_t rows = random.Int(0, 70);
    const int64_t width = random.Coin() ? Size(random, 200) : Size(random, 2500);
    const DType dtype = random.Int(0, 2) == 0 ? DType::kF16 : random.WeightType();
    const Tensor table = random.Values(dtype, {random.Int(1, 50), width});
    const Tensor ids = Indices(random, rows, table.view().dim(0));
    const Tensor got(DType::kF32, {rows, width});
    const Tensor want(DType::kF32, {rows, width});
    kernels_->Embedding({.ids = ids, .table = table, .y = got}, Any(random));
    oracle_->Embedding({.ids = ids, .table = table, .y = want}, {});
    ExpectSameBits(got.f32(), want.f32(), rows * width, "embedding");
  });
}

TEST_P(ElementwiseContract, RmsNormAgreesOnStridedRowsAndInPlace) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(0, 70);
    const int64_t width = random.Coin() ? Size(random, 600) : Size(random, 9000);
    const int64_t stride = width + 4 * random.Int(0, 5) + (random.Coin() ? 1 : 0);
    const Tensor x = random.Values(DType::kF32, {rows, stride}, 3.0f);
    const Tensor w = random.Values(random.WeightType(), {width});
    const Tensor got = x.Clone();
    const Tensor want = x.Clone();
    RmsNormArgs args{.x = TensorView(got.view().raw(), DType::kF32, {rows, width}),
                     .x_stride = stride,
                     .w = w,
                     .y = TensorView(got.view().raw(), DType::kF32, {rows, width}),
                     .y_stride = stride};
    kernels_->RmsNorm(args, Any(random));
    args.x = args.y = TensorView(want.view().raw(), DType::kF32, {rows, width});
    oracle_->RmsNorm(args, {});
    // Half of the sum's relative error (all terms have one sign), and four operations more.
    ExpectNear(got, want, static_cast<double>(width) / 4 + 16);
  });
}

TEST_P(ElementwiseContract, RmsNormOfARowHasTheSameBitsAlone) {
  Random random(3);
  for (const int64_t width : {67, 128, 512, 1536}) {
    const Tensor x = random.Values(DType::kF32, {40, width});
    const Tensor w = random.Values(DType::kBF16, {width});
    const Tensor whole(DType::kF32, {40, width});
    kernels_->RmsNorm({.x = x, .w = w, .y = whole}, StreamOf(3));
    const Tensor one(DType::kF32, {1, width});
    for (int64_t t = 0; t < 40; ++t) {
      kernels_->RmsNorm({.x = x.view().Rows(t, 1), .w = w, .y = one}, StreamOf(1));
      ExpectSameBits(one.f32(), whole.f32() + t * width, width, "row");
    }
  }
}

TEST_P(ElementwiseContract, RopeTurnsOnlyItsColumns) {
  ForSeeds(20, [&](Random& random) {
    const int64_t heads = random.Int(1, 9);
    const int64_t half = random.Int(1, 40);
    const int64_t offset = random.Int(0, 10);
    const int64_t head_stride = offset + 2 * half + random.Int(0, 10);
    const int64_t tokens = random.Int(0, 40);
    const Tensor x = random.Values(DType::kF32, {tokens, heads * head_stride + 3});
    const Tensor cos = random.Values(DType::kF32, {64, half});
    const Tensor sin = random.Values(DType::kF32, {64, half});
    const Tensor positions = Indices(random, tokens, 64);
    const Tensor got = x.Clone();
    const Tensor want = x.Clone();
    RopeArgs args{.x = got,
                  .num_tokens = tokens,
                  .num_heads = heads,
                  .token_stride = heads * head_stride + 3,
                  .head_stride = head_stride,
                  .offset = offset,
                  .rotary_dim = 2 * half,
                  .interleaved = random.Coin(),
                  .cos = cos,
                  .sin = sin,
                  .positions = positions};
    kernels_->Rope(args, Any(random));
    args.x = want;
    oracle_->Rope(args, {});
    ExpectNear(got, want, 4, 2.0);  // two products of at most 1 and a sum
    const Tensor turned(DType::kF32, {tokens, heads, 2 * half});
    args.x = x;
    args.y = turned;
    kernels_->Rope(args, Any(random));
    for (int64_t i = 0; i < tokens * heads; ++i) {
      const int64_t head = i / heads * args.token_stride + i % heads * head_stride + offset;
      ExpectSameBits(turned.f32() + i * 2 * half, got.f32() + head, 2 * half, "in its own rows");
    }
  });
}

TEST_P(ElementwiseContract, SwiGluAgreesFromTinyToHugeGates) {
  ForSeeds(10, [&](Random& random) {
    const int64_t rows = random.Int(0, 40);
    const int64_t width = random.Int(1, 300);
    const float range = random.Coin() ? 4.0f : 300.0f;
    const Tensor gate = random.Values(DType::kF32, {rows, width}, range);
    const Tensor up = random.Values(DType::kF32, {rows, width});
    const Tensor want(DType::kF32, {rows, width});
    oracle_->SwiGlu({.gate = gate, .up = up, .y = want}, {});
    const Tensor got = gate.Clone();  // in place
    kernels_->SwiGlu({.gate = got, .up = up, .y = got}, Any(random));
    // exp within 2 ulp, then four operations; results under 1e-30 may be flushed to any tiny value.
    for (int64_t i = 0; i < rows * width; ++i) {
      ASSERT_NEAR(got.at(i), want.at(i), 16 * kUnit * std::abs(want.at(i)) + 1e-30) << gate.at(i);
    }
  });
}

TEST_P(ElementwiseContract, SwiGluKeepsNotANumberVisible) {
  const Tensor gate(DType::kF32, {1, 3});
  const Tensor up(DType::kF32, {1, 3});
  gate.f32()[0] = std::numeric_limits<float>::quiet_NaN();
  gate.f32()[1] = 1.0f;
  gate.f32()[2] = 1.0f;
  up.f32()[0] = up.f32()[1] = 1.0f;
  up.f32()[2] = std::numeric_limits<float>::quiet_NaN();
  kernels_->SwiGlu({.gate = gate, .up = up, .y = gate}, StreamOf(1));
  EXPECT_TRUE(std::isnan(gate.f32()[0]));
  EXPECT_FALSE(std::isnan(gate.f32()[1]));
  EXPECT_TRUE(std::isnan(gate.f32()[2]));
}

TEST_P(ElementwiseContract, StoreKvRoundsIntoItsColumnsAndNowhereElse) {
  ForSeeds(20, [&](Random& random) {
    const int64_t width = random.Coin() ? Size(random, 80) : Size(random, 1400);
    const int64_t column = Size(random, 20);
    const int64_t pool_width = column + width + Size(random, 8);
    const int64_t stride = width + Size(random, 8);
    const DType dtype = random.WeightType();
    const Tensor pool = random.Values(dtype, {6, 4, pool_width});
    const int64_t rows = random.Int(0, 12);
    const Tensor x = random.Values(DType::kF32, {rows, stride});
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < rows; ++t) slots.push_back((5 * t + 3) % 24);  // all different
    const Tensor got = pool.Clone();
    const Tensor want = pool.Clone();
    StoreKvArgs args{.x = TensorView(x.view().raw(), DType::kF32, {rows, width}),
                     .x_stride = stride,
                     .kv = {got},
                     .kv_column = column,
                     .slots = slots};
    kernels_->StoreKv(args, Any(random));
    args.kv = {want};
    oracle_->StoreKv(args, {});
    EXPECT_EQ(std::memcmp(got.view().raw(), want.view().raw(), want.view().num_bytes()), 0);
  });
}

TEST_P(ElementwiseContract, StoreLatentIsItsThreeOps) {
  ForSeeds(20, [&](Random& random) {
    const int64_t lora = random.Coin() ? Size(random, 600) : 512;
    const int64_t half = random.Int(1, 40);
    const int64_t width = lora + 2 * half;
    const int64_t rows = random.Int(0, 12);
    const Tensor pool = random.Values(random.WeightType(), {6, 4, width});
    const Tensor x = random.Values(DType::kF32, {rows, width}, 3.0f);
    const Tensor norm = random.Values(random.WeightType(), {lora});
    const Tensor cos = random.Values(DType::kF32, {64, half});
    const Tensor sin = random.Values(DType::kF32, {64, half});
    const Tensor positions = Indices(random, rows, 64);
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < rows; ++t) slots.push_back((5 * t + 3) % 24);
    const bool on_device = GetParam().starts_with("gpu");
    if (on_device && rows > 2) slots[1] = -1;  // padding
    const Tensor got = pool.Clone();
    const Tensor want = pool.Clone();
    const Tensor first = x.Clone();
    StoreLatentArgs args{.x = first,
                         .norm = norm,
                         .eps = 1e-5f,
                         .interleaved = random.Coin(),
                         .cos = cos,
                         .sin = sin,
                         .positions = positions,
                         .kv = {got},
                         .slots = slots};
    kernels_->StoreLatent(args, Any(random));
    const Tensor second = x.Clone();
    args.x = second;
    args.kv = {want};
    const Stream stream = Any(random);
    kernels_->RmsNorm(args.Norm(), stream);
    kernels_->Rope(args.Rope(), stream);
    kernels_->StoreKv(args.Store(), stream);
    EXPECT_EQ(std::memcmp(got.view().raw(), want.view().raw(), want.view().num_bytes()), 0);
  });
}

TEST_P(ElementwiseContract, RoundsHalfwayToEvenAndKeepsNotANumber) {
  const Tensor x(DType::kF32, {1, 5});
  const float values[] = {std::bit_cast<float>(0x3f808000u), std::bit_cast<float>(0x3f818000u),
                          std::numeric_limits<float>::infinity(), std::bit_cast<float>(0x7f800001u),
                          -0.0f};
  std::copy_n(values, 5, x.f32());
  const Tensor pool(DType::kBF16, {1, 1, 5});
  const std::vector<int64_t> slots = {0};
  kernels_->StoreKv({.x = x, .kv = {pool}, .slots = slots}, StreamOf(1));
  EXPECT_EQ(pool.view().b16()[0], 0x3f80);
  EXPECT_EQ(pool.view().b16()[1], 0x3f82);
  EXPECT_EQ(pool.view().b16()[2], 0x7f80);
  EXPECT_TRUE(std::isnan(ToF32(pool.view().b16()[3])));
  EXPECT_EQ(pool.view().b16()[4], 0x8000);
}

INSTANTIATE_TEST_SUITE_P(Kernels, ElementwiseContract, testing::ValuesIn(ProductKernelSets()),
                         NameOfParam);

}  // namespace
}  // namespace choir
