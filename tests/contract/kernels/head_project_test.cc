#include <limits>

#include "tests/contract/kernels/gpu_ops_test.h"

namespace choir {
namespace {

class HeadProjectContract : public KernelsTest {};
class TensorHeadProject : public GpuOps {};  // its own kernel, where shapes and alignment allow it

struct HeadCase {
  Tensor x, w, y;
  HeadProjectArgs args;
  int64_t tokens = 0, heads = 0, from = 0, to = 0;

  HeadProjectArgs Tokens(int64_t begin, int64_t count, const Tensor& out) const {
    HeadProjectArgs part = args;
    part.x =
        TensorView(args.x.f32() + begin * args.x_token_stride, DType::kF32, {count, heads, from});
    part.y = TensorView(out.f32(), DType::kF32, {count, heads, to});
    return part;
  }
  int64_t width() const { return heads * to; }  // of a token's results
};

// What lies between rows or matrices is NaN: who reads it has NaN.
void PutNaN(const Tensor& to, int64_t begin, int64_t count) {
  for (int64_t i = begin; i < begin + count; ++i) {
    if (to.view().dtype() == DType::kF32) {
      to.f32()[i] = std::numeric_limits<float>::quiet_NaN();
    } else {
      to.view().b16()[i] = 0x7fff;  // in f16, too
    }
  }
}

// q's rope columns lie beside its nope columns, and one half of kv_b behind the other.
HeadCase MakeCase(Random& random, HeadCase c, DType dtype, int64_t gap, int64_t w_gap) {
  c.x = random.Values(DType::kF32, {c.tokens, c.heads, c.from + gap});
  for (int64_t i = 0; i < c.tokens * c.heads; ++i) {
    PutNaN(c.x, i * (c.from + gap) + c.from, gap);
  }
  c.w = random.Values(dtype, {c.heads * (c.from * c.to + w_gap)});
  for (int64_t h = 1; h <= c.heads; ++h) {
    PutNaN(c.w, h * (c.from * c.to + w_gap) - w_gap, w_gap);
  }
  c.y = Tensor(DType::kF32, {c.tokens, c.heads, c.to});
  PutNaN(c.y, 0, c.tokens * c.width());
  c.args.x = TensorView(c.x.view().raw(), DType::kF32, {c.tokens, c.heads, c.from});
  c.args.x_head_stride = c.from + gap;
  c.args.x_token_stride = c.heads * (c.from + gap);
  c.args.w = TensorView(c.w.view().raw(), dtype,
                        {c.args.transpose ? c.to : c.from, c.args.transpose ? c.from : c.to});
  c.args.w_head_stride = c.from * c.to + w_gap;
  c.args.y = c.y;
  return c;
}

HeadCase AnyCase(Random& random) {
  HeadCase c{.tokens = random.Int(0, 70),
             .heads = random.Int(1, 5),
             .from = random.Int(1, 70),
             .to = random.Int(1, 140)};
  c.args.transpose = random.Coin();
  c.args.compute = random.AnyCompute();
  const DType dtype = random.Int(0, 2) == 0 ? DType::kF16 : random.WeightType();
  return MakeCase(random, std::move(c), dtype, random.Int(0, 9), random.Int(0, 300));
}

// Of the kernel on tensor cores: multiples of 8, rows at multiples of 16 bytes.
HeadCase AlignedCase(Random& random, int64_t tokens, int64_t from_max = 320) {
  HeadCase c{.tokens = tokens,
             .heads = random.Int(1, 3),
             .from = 8 * random.Int(1, from_max / 8),
             .to = 8 * random.Int(1, 34)};
  c.args.transpose = random.Coin();
  c.args.compute = Compute::kBF16;
  return MakeCase(random, std::move(c), DType::kBF16, 4 * random.Int(0, 5), 8 * random.Int(0, 9));
}

// On both sides of where tiles and their heights change.
int64_t TokensAtAnEdge(Random& random) {
  constexpr int64_t kEdges[] = {1, 16, 17, 64, 65, 128, 129, 130, 193};
  return random.Coin() ? kEdges[random.Int(0, 8)] : random.Int(1, 140);
}

void ExpectNear(const HeadCase& c, const Tensor& got, const Tensor& want) {
  for (int64_t i = 0; i < c.tokens * c.width(); ++i) {
    // |x|, |w| <= 1; without lanes over the sum it is four times as long.
    const auto terms = static_cast<double>(c.from);
    ASSERT_NEAR(got.f32()[i], want.f32()[i], DotBound(4 * c.from, terms))
        << "element " << i << " of " << c.tokens << " x " << c.heads << " x " << c.from << " -> "
        << c.to << (c.args.transpose ? ", transposed" : "");
  }
}

TEST_P(HeadProjectContract, AgreesWithTheReference) {
  ForSeeds(60, [&](Random& random) {
    const HeadCase c =
        random.Coin() ? AnyCase(random) : AlignedCase(random, TokensAtAnEdge(random));
    kernels_->HeadProject(c.args, Any(random));
    const Tensor want(DType::kF32, {c.tokens, c.heads, c.to});
    oracle_->HeadProject(c.Tokens(0, c.tokens, want), {});
    ExpectNear(c, c.y, want);
  });
}

TEST_P(HeadProjectContract, ATokenHasTheSameBitsAlone) {
  ForSeeds(20, [&](Random& random) {
    const HeadCase c = random.Coin() ? AnyCase(random) : AlignedCase(random, 70, 80);
    kernels_->HeadProject(c.args, Any(random));
    const Tensor one(DType::kF32, {1, c.heads, c.to});
    for (int64_t t = 0; t < c.tokens; ++t) {
      kernels_->HeadProject(c.Tokens(t, 1, one), Any(random));
      ExpectSameBits(one.f32(), c.y.f32() + t * c.width(), c.width(), "token");
    }
  });
}

// Threads in any order.
TEST_P(TensorHeadProject, ATokenHasTheSameBitsInABatchOfAnySizeAtAnyPlace) {
  Random random(3);
  constexpr int64_t kMost = 130;
  for (const bool transpose : {false, true}) {
    HeadCase c{.tokens = kMost, .heads = 1, .from = 152, .to = 72};
    c.args.transpose = transpose;
    c.args.compute = Compute::kBF16;
    c = MakeCase(random, std::move(c), DType::kBF16, 4, 8);
    gpu_.head_project(c.args, Any(random));
    for (int64_t count = 1; count < kMost; ++count) {
      const int64_t begin = random.Int(0, kMost - count);
      const Tensor part(DType::kF32, {count + 1, c.heads, c.to});
      std::fill_n(part.f32() + count * c.width(), c.width(), 7.0f);
      gpu_.head_project(c.Tokens(begin, count, part), Any(random));
      ExpectSameBits(part.f32(), c.y.f32() + begin * c.width(), count * c.width(), "batch");
      for (int64_t i = 0; i < c.width(); ++i) {
        ASSERT_EQ(part.f32()[count * c.width() + i], 7.0f) << count << " tokens, beyond them";
      }
      if (HasFatalFailure()) return;
    }
  }
}

// DeepSeek-V3's widths, with both halves of kv_b in one matrix and rope columns beside.
TEST_P(TensorHeadProject, TakesBothHalvesOfTheLatentProjection) {
  Random random(4);
  const Tensor kv_b = random.Values(DType::kBF16, {2 * 256, 512});
  for (const int64_t tokens : {2, 20}) {
    for (const bool transpose : {false, true}) {
      const int64_t from = transpose ? 512 : 128;
      const int64_t to = transpose ? 128 : 512;
      HeadCase c{.tokens = tokens, .heads = 2, .from = from, .to = to};
      c.x = random.Values(DType::kF32, {tokens, 2, transpose ? 512 : 192});
      c.y = Tensor(DType::kF32, {tokens, 2, to});
      c.args = {.x = TensorView(c.x.view().raw(), DType::kF32, {tokens, 2, from}),
                .x_token_stride = transpose ? 0 : 2 * 192,
                .x_head_stride = transpose ? 0 : 192,
                .w = kv_b.view().Rows(transpose ? 128 : 0, 128),
                .w_head_stride = 256 * 512,
                .transpose = transpose,
                .y = c.y,
                .compute = Compute::kBF16};
      gpu_.head_project(c.args, Any(random));
      const Tensor want(DType::kF32, {tokens, 2, to});
      c.args.y = want;
      MakeReferenceKernels()->HeadProject(c.args, {});
      ExpectNear(c, c.y, want);
    }
  }
}

// By the bits of the simple kernel, which adds in another order.
TEST_P(TensorHeadProject, TakesTheSimpleWayByShapesAndAlignmentAlone) {
  const cuda::KernelTable& simple = GpuTable("gpu_emulated");
  const auto is_simple = [&](Random& random, const HeadProjectArgs& args) {
    const Tensor want(DType::kF32, {args.x.dim(0), args.x.dim(1), args.y.dim(2)});
    HeadProjectArgs other = args;
    other.y = want;
    simple.head_project(other, Stream(Order::kForward));
    gpu_.head_project(args, Any(random));
    return std::memcmp(args.y.raw(), want.f32(), want.view().num_bytes()) == 0;
  };
  for (const int64_t tokens : {1, 5, 20, 140}) {
    Random random(static_cast<uint32_t>(tokens));
    const Tensor x = random.Values(DType::kF32, {tokens + 1, 2, 80});
    const Tensor w = random.Values(DType::kBF16, {3 * 64, 80});
    const Tensor y(DType::kF32, {tokens + 1, 2, 80});
    const auto args_of = [&](int64_t from, int64_t to) {
      return HeadProjectArgs{.x = TensorView(x.f32(), DType::kF32, {tokens, 2, from}),
                             .x_token_stride = 2 * 68,
                             .x_head_stride = 68,
                             .w = TensorView(w.view().b16(), DType::kBF16, {from, to}),
                             .w_head_stride = 64 * 80 + 16,
                             .y = TensorView(y.f32(), DType::kF32, {tokens, 2, to}),
                             .compute = Compute::kBF16};
    };
    const HeadProjectArgs args = args_of(64, 80);
    EXPECT_FALSE(is_simple(random, args)) << tokens;

    HeadProjectArgs other = args;
    other.compute = Compute::kF32;
    EXPECT_TRUE(is_simple(random, other)) << "products in f32";
    other = args;
    other.w = TensorView(w.view().raw(), DType::kF16, {64, 80});
    EXPECT_TRUE(is_simple(random, other)) << "f16";
    other = args;
    other.x = TensorView(x.f32() + 1, DType::kF32, {tokens, 2, 64});
    other.x_head_stride = 64;
    EXPECT_TRUE(is_simple(random, other)) << "x begins at any float";
    other = args;
    other.x_head_stride = 65;
    EXPECT_TRUE(is_simple(random, other)) << "heads of x at any float";
    other = args;
    other.x_token_stride = 2 * 64 + 7;
    EXPECT_TRUE(is_simple(random, other)) << "rows of x at any float";
    other = args;
    other.w_head_stride = 64 * 80 + 4;
    EXPECT_TRUE(is_simple(random, other)) << "matrices at any 8 bytes";
    other = args;
    other.w = TensorView(w.view().b16() + 4, DType::kBF16, {64, 80});
    EXPECT_TRUE(is_simple(random, other)) << "w begins at any 8 bytes";
    other = args;
    other.y = TensorView(y.f32() + 1, DType::kF32, {tokens, 2, 80});
    EXPECT_TRUE(is_simple(random, other)) << "y begins at any float";
    EXPECT_TRUE(is_simple(random, args_of(60, 80))) << "60 columns";
    EXPECT_TRUE(is_simple(random, args_of(64, 76))) << "76 outputs";
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, HeadProjectContract, testing::ValuesIn(ProductKernelSets()),
                         NameOfParam);
INSTANTIATE_TEST_SUITE_P(Tables, TensorHeadProject, testing::ValuesIn(TensorTableNames()),
                         NameOfParam);

}  // namespace
}  // namespace choir
