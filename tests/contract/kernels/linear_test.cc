#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class LinearContract : public KernelsTest {};

struct LinearCase {
  Tensor x, w, bias, y;
  Compute compute = Compute::kF32;
  bool accumulate = false;

  LinearArgs Args(const Tensor& out) const {
    LinearArgs args{
        .x = x, .w = w, .bias = {}, .y = out, .compute = compute, .accumulate = accumulate};
    if (bias.view().rank() != 0) args.bias = bias;
    return args;
  }
};

LinearCase MakeLinear(Random& random, int64_t rows) {
  const int64_t outputs = random.Int(1, 70);
  const int64_t width = random.Coin() ? random.Int(1, 320) : 32 * random.Int(1, 10);
  LinearCase c;
  c.x = random.Values(DType::kF32, {rows, width});
  c.w = random.Values(random.WeightType(), {outputs, width});
  if (random.Coin()) c.bias = random.Values(random.WeightType(), {outputs});
  c.y = random.Values(DType::kF32, {rows, outputs});
  c.compute = random.AnyCompute();
  c.accumulate = random.Coin();
  return c;
}

TEST_P(LinearContract, AgreesWithTheReference) {
  ForSeeds(40, [&](Random& random) {
    const LinearCase c = MakeLinear(random, random.Int(0, 70));
    const Tensor got = c.y.Clone();
    const Tensor want = c.y.Clone();
    kernels_->Linear(c.Args(got), Any(random));
    oracle_->Linear(c.Args(want), {});
    const int64_t outputs = c.w.view().dim(0);
    const int64_t width = c.w.view().dim(1);
    for (int64_t i = 0; i < got.view().num_elements(); ++i) {
      double sum = std::abs(want.f32()[i]) + std::abs(c.y.f32()[i]) + 1.0;
      for (int64_t k = 0; k < width; ++k) {
        sum += std::abs(c.x.at(i / outputs * width + k) * c.w.at(i % outputs * width + k));
      }
      ASSERT_NEAR(got.f32()[i], want.f32()[i], DotBound(width, sum)) << "element " << i;
    }
  });
}

TEST_P(LinearContract, RowHasTheSameBitsAloneAndInAnyBatch) {
  ForSeeds(12, [&](Random& random) {
    const int64_t rows = random.Int(2, 70);
    const LinearCase c = MakeLinear(random, rows);
    const int64_t outputs = c.w.view().dim(0);
    const Tensor whole = c.y.Clone();
    kernels_->Linear(c.Args(whole), Any(random));
    for (int64_t begin = 0; begin < rows;) {  // cut in random batches
      const int64_t count = std::min(rows - begin, random.Int(1, 9));
      const Tensor part = c.y.Clone();
      LinearArgs args = c.Args(part);
      args.x = args.x.Rows(begin, count);
      args.y = args.y.Rows(begin, count);
      kernels_->Linear(args, Any(random));
      ExpectSameBits(args.y.f32(), whole.f32() + begin * outputs, count * outputs, "batch");
      begin += count;
    }
  });
}

TEST_P(LinearContract, OutputHasTheSameBitsAtAnyPlaceAmongTheWeights) {
  ForSeeds(12, [&](Random& random) {
    const int64_t rows = random.Int(1, 20);
    LinearCase c = MakeLinear(random, rows);
    c.bias = {};
    c.accumulate = false;
    const int64_t outputs = c.w.view().dim(0);
    const Tensor whole = c.y.Clone();
    kernels_->Linear(c.Args(whole), Any(random));
    const int64_t begin = random.Int(0, outputs - 1);
    const int64_t count = random.Int(1, outputs - begin);
    const Tensor part(DType::kF32, {rows, count});
    LinearArgs args = c.Args(part);
    args.w = args.w.Rows(begin, count);
    kernels_->Linear(args, Any(random));
    for (int64_t r = 0; r < rows; ++r) {
      ExpectSameBits(part.f32() + r * count, whole.f32() + r * outputs + begin, count, "outputs");
    }
  });
}

TEST_P(LinearContract, RoundsLongBatchesInPartsWithTheSameBits) {
  Random random(7);
  const int64_t rows = 600;  // more than are rounded at a time
  const int64_t width = 33;
  const int64_t outputs = 5;
  const Tensor x = random.Values(DType::kF32, {rows, width});
  const Tensor w = random.Values(DType::kBF16, {outputs, width});
  const Tensor whole(DType::kF32, {rows, outputs});
  LinearArgs args{.x = x, .w = w, .bias = {}, .y = whole, .compute = Compute::kBF16};
  kernels_->Linear(args, StreamOf(2));
  const Tensor one(DType::kF32, {1, outputs});
  for (const int64_t row : {0, 511, 512, 599}) {
    args.x = x.view().Rows(row, 1);
    args.y = one;
    kernels_->Linear(args, StreamOf(1));
    ExpectSameBits(one.f32(), whole.f32() + row * outputs, outputs, "row");
  }
}

struct HeadCase {
  Tensor x, w, y;
  HeadProjectArgs args;
  int64_t tokens = 0, heads = 0, from = 0, to = 0;
};

HeadCase MakeHeadProject(Random& random) {
  HeadCase c;
  c.tokens = random.Int(0, 70);
  c.heads = random.Int(1, 5);
  c.from = random.Int(1, 70);
  c.to = random.Int(1, 140);
  const int64_t gap = random.Int(0, 9);  // q's rope columns beside its nope columns
  const int64_t w_gap = random.Int(0, 300);
  c.x = random.Values(DType::kF32, {c.tokens, c.heads, c.from + gap});
  c.w = random.Values(random.WeightType(), {c.heads * (c.from * c.to + w_gap)});
  c.y = Tensor(DType::kF32, {c.tokens, c.heads, c.to});
  c.args.transpose = random.Coin();
  c.args.compute = random.AnyCompute();
  c.args.x = TensorView(c.x.view().raw(), DType::kF32, {c.tokens, c.heads, c.from});
  c.args.x_head_stride = c.from + gap;
  c.args.x_token_stride = c.heads * (c.from + gap);
  c.args.w = c.args.transpose ? TensorView(c.w.view().raw(), c.w.view().dtype(), {c.to, c.from})
                              : TensorView(c.w.view().raw(), c.w.view().dtype(), {c.from, c.to});
  c.args.w_head_stride = c.from * c.to + w_gap;
  c.args.y = c.y;
  return c;
}

TEST_P(LinearContract, HeadProjectAgreesWithTheReference) {
  ForSeeds(30, [&](Random& random) {
    HeadCase c = MakeHeadProject(random);
    kernels_->HeadProject(c.args, Any(random));
    const Tensor want(DType::kF32, {c.tokens, c.heads, c.to});
    c.args.y = want;
    oracle_->HeadProject(c.args, {});
    for (int64_t i = 0; i < want.view().num_elements(); ++i) {
      // |x|, |w| <= 1; without lanes over the sum it is four times as long.
      const auto terms = static_cast<double>(c.from);
      ASSERT_NEAR(c.y.f32()[i], want.f32()[i], DotBound(4 * c.from, terms)) << "element " << i;
    }
  });
}

TEST_P(LinearContract, HeadProjectOfATokenHasTheSameBitsAlone) {
  ForSeeds(10, [&](Random& random) {
    HeadCase c = MakeHeadProject(random);
    kernels_->HeadProject(c.args, Any(random));
    const Tensor one(DType::kF32, {1, c.heads, c.to});
    const HeadProjectArgs all = c.args;
    for (int64_t t = 0; t < c.tokens; ++t) {
      c.args.x =
          TensorView(all.x.f32() + t * all.x_token_stride, DType::kF32, {1, c.heads, c.from});
      c.args.y = one;
      kernels_->HeadProject(c.args, Any(random));
      ExpectSameBits(one.f32(), c.y.f32() + t * c.heads * c.to, c.heads * c.to, "token");
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Kernels, LinearContract, testing::ValuesIn(AllKernelSets()), NameOfParam);

}  // namespace
}  // namespace choir
