#include <functional>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class LinearContract : public KernelsTest {};
class DenseContract : public KernelsTest {};  // on Hopper's rung, too

struct LinearCase {
  Tensor x, bias, y;
  Weights w;
  Compute compute = Compute::kF32;
  bool accumulate = false;

  LinearArgs Args(const Tensor& out) const {
    LinearArgs args{.x = x,
                    .w = w.w,
                    .w_scale = w.scales(),
                    .bias = {},
                    .y = out,
                    .compute = compute,
                    .accumulate = accumulate};
    if (bias.view().rank() != 0) args.bias = bias;
    return args;
  }
};

LinearCase MakeLinear(const std::string& kernels, Random& random, int64_t rows) {
  LinearCase c;
  const bool hopper = IsHopper(kernels);  // which takes these formats itself
  const DType any = random.AnyFormat();
  const DType dtype = !hopper ? any : random.Coin() ? DType::kBF16 : DType::kF8E4M3;
  const int64_t outputs = random.Int(1, dtype == DType::kF8E4M3 ? 300 : 70);
  const bool any_width = random.Coin() && dtype != DType::kF4E2M1;
  int64_t width = any_width ? random.Int(1, 320) : 32 * random.Int(1, 10);
  if (hopper) width = dtype == DType::kBF16 ? 8 * random.Int(1, 40) : 64 * random.Int(1, 5);
  c.x = random.Values(DType::kF32, {rows, width});
  c.w = random.Matrix(dtype, outputs, width);
  if (random.Coin()) c.bias = random.Values(random.WeightType(), {outputs});
  c.y = random.Values(DType::kF32, {rows, outputs});
  c.compute = hopper ? Compute::kBF16 : random.AnyCompute();
  c.accumulate = random.Coin();
  return c;
}

TEST_P(DenseContract, AgreesWithTheReference) {
  ForSeeds(80, [&](Random& random) {
    const LinearCase c = MakeLinear(GetParam(), random, random.Int(0, 70));
    const Tensor got = c.y.Clone();
    const Tensor want = c.y.Clone();
    kernels_->Linear(c.Args(got), Any(random));
    oracle_->Linear(c.Args(want), {});
    const int64_t outputs = c.w.rows();
    const int64_t width = c.w.width();
    for (int64_t i = 0; i < got.view().num_elements(); ++i) {
      double sum = std::abs(want.f32()[i]) + std::abs(c.y.f32()[i]) + 1.0;
      for (int64_t k = 0; k < width; ++k) {
        sum += std::abs(c.x.at(i / outputs * width + k) * c.w.at(i % outputs, k));
      }
      const DType dtype = c.w.w.view().dtype();
      const double bound = DotBound(width, sum) + ScaledBound(GetParam(), dtype, c.compute, sum);
      ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
    }
  });
}

TEST_P(DenseContract, RowHasTheSameBitsAloneAndInAnyBatch) {
  ForSeeds(30, [&](Random& random) {
    const int64_t rows = random.Int(2, 70);
    const LinearCase c = MakeLinear(GetParam(), random, rows);
    const int64_t outputs = c.w.rows();
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

TEST_P(DenseContract, OutputHasTheSameBitsAtAnyPlaceAmongTheWeights) {
  ForSeeds(30, [&](Random& random) {
    const int64_t rows = random.Int(1, 20);
    LinearCase c = MakeLinear(GetParam(), random, rows);
    c.bias = {};
    c.accumulate = false;
    const int64_t outputs = c.w.rows();
    const Tensor whole = c.y.Clone();
    kernels_->Linear(c.Args(whole), Any(random));
    int64_t begin = random.Int(0, outputs - 1);
    const bool blocks = c.w.w.view().dtype() == DType::kF8E4M3;
    if (blocks) begin = begin / 128 * 128;
    const int64_t count = random.Int(1, outputs - begin);
    const Tensor part(DType::kF32, {rows, count});
    LinearArgs args = c.Args(part);
    args.w = args.w.Rows(begin, count);
    if (blocks) {
      args.w_scale = args.w_scale.Rows(begin / 128, (count + 127) / 128);
    } else if (c.w.scaled()) {
      args.w_scale = args.w_scale.Rows(begin, count);
    }
    kernels_->Linear(args, Any(random));
    for (int64_t r = 0; r < rows; ++r) {
      ExpectSameBits(part.f32() + r * count, whole.f32() + r * outputs + begin, count, "outputs");
    }
  });
}

// Products of the same rows, each with other outputs.
std::vector<LinearCase> MakeMerged(const std::string& kernels, Random& random) {
  const LinearCase like = MakeLinear(kernels, random, random.Int(0, 70));
  std::vector<LinearCase> parts;
  const int64_t count = random.Int(1, 5);  // more than one launch takes
  for (int64_t i = 0; i < count; ++i) {
    LinearCase c = like;
    const int64_t outputs = random.Coin() ? random.Int(1, 99) : random.Int(1, 4) * 128;
    const bool other = random.Int(0, 9) == 0;  // now and then of another format
    c.w = random.Matrix(other ? DType::kBF16 : like.w.w.view().dtype(), outputs, like.w.width());
    c.bias = random.Coin() ? random.Values(random.WeightType(), {outputs}) : Tensor();
    c.y = random.Values(DType::kF32, {like.x.view().dim(0), outputs});
    c.accumulate = random.Coin();
    parts.push_back(c);
  }
  return parts;
}

TEST_P(DenseContract, MergedProductsHaveTheBitsOfSingleOnes) {
  ForSeeds(10, [&](Random& random) {
    for (int again = 0; again < 3; ++again) {
      const std::vector<LinearCase> parts = MakeMerged(GetParam(), random);
      std::vector<LinearArgs> merged;
      std::vector<Tensor> got;
      for (const LinearCase& part : parts) {
        got.push_back(part.y.Clone());
        merged.push_back(part.Args(got.back()));
      }
      kernels_->MergedLinear({merged}, Any(random));
      for (size_t i = 0; i < parts.size(); ++i) {
        const Tensor want = parts[i].y.Clone();
        kernels_->Linear(parts[i].Args(want), Any(random));
        ExpectSameBits(got[i].f32(), want.f32(), want.view().num_elements(), "part");
      }
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
  LinearArgs args{.x = x, .w = w, .w_scale = {}, .bias = {}, .y = whole, .compute = Compute::kBF16};
  kernels_->Linear(args, StreamOf(2));
  const Tensor one(DType::kF32, {1, outputs});
  for (const int64_t row : {0, 511, 512, 599}) {
    args.x = x.view().Rows(row, 1);
    args.y = one;
    kernels_->Linear(args, StreamOf(1));
    ExpectSameBits(one.f32(), whole.f32() + row * outputs, outputs, "row");
  }
}

// Each row of w holds one code, in column `code % width`, which x picks out: every code of the
// format must come out as its value, in tiles of one row and of many.
void ExpectEveryCode(const KernelSet& kernels, const Stream& stream, DType dtype, int64_t codes,
                     const std::function<void(std::byte* w, int64_t code)>& put,
                     const std::function<float(int64_t)>& value) {
  constexpr int64_t kWidth = 64;
  const Tensor w(dtype, {codes, kWidth});
  for (int64_t code = 0; code < codes; ++code) {
    put(static_cast<std::byte*>(w.view().raw()) + BytesOf(dtype, code * kWidth), code);
  }
  Tensor scale;
  if (dtype == DType::kF8E4M3) {
    scale = Tensor(DType::kF32, {(codes + 127) / 128, 1});
    std::fill_n(scale.f32(), scale.view().num_elements(), 1.0f);
  } else if (dtype == DType::kF4E2M1) {
    scale = Tensor(DType::kU8, {codes, kWidth / 32});
    std::fill_n(scale.view().data<uint8_t>(), scale.view().num_elements(), 127);
  }
  for (const int64_t rows : {1, 20}) {
    const Tensor x(DType::kF32, {rows, kWidth});
    for (int64_t i = 0; i < rows * kWidth; ++i) x.f32()[i] = 1.0f;
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      const Tensor y(DType::kF32, {rows, codes});
      kernels.Linear({.x = x,
                      .w = w,
                      .w_scale = scale.view().rank() != 0 ? scale.view() : TensorView(),
                      .bias = {},
                      .y = y,
                      .compute = compute},
                     stream);
      for (int64_t i = 0; i < rows * codes; ++i) {
        const float want = value(i % codes);
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(y.f32()[i])) << "code " << i % codes;
        } else {
          ASSERT_EQ(y.f32()[i], want) << "code " << i % codes;
        }
      }
    }
  }
}

TEST_P(LinearContract, ReadsEveryCodeOfTheSmallFormats) {
  ExpectEveryCode(
      *kernels_, StreamOf(2), DType::kF16, 1 << 16,
      [](std::byte* w, int64_t code) {
        const auto bits = static_cast<uint16_t>(code);
        std::memcpy(w + code % 64 * 2, &bits, 2);
      },
      [](int64_t code) { return F16ToF32(static_cast<uint16_t>(code)); });
  ExpectEveryCode(
      *kernels_, StreamOf(2), DType::kF8E4M3, 256,
      [](std::byte* w, int64_t code) { w[code % 64] = static_cast<std::byte>(code); },
      [](int64_t code) { return F8ToF32(static_cast<uint8_t>(code)); });
  ExpectEveryCode(
      *kernels_, StreamOf(2), DType::kF4E2M1, 64,  // each code at four places
      [](std::byte* w, int64_t code) {
        w[code / 2] = static_cast<std::byte>(code % 16 << (code % 2 * 4));
      },
      [](int64_t code) { return F4ToF32(static_cast<uint8_t>(code % 16)); });
}

// Each scale from the smallest to the largest that a block may have.
TEST_P(LinearContract, ScalesF4ByEveryExponent) {
  constexpr int64_t kScales = 253;
  const Tensor w(DType::kF4E2M1, {kScales, 32});
  const Tensor scale(DType::kU8, {kScales, 1});
  for (int64_t s = 0; s < kScales; ++s) {
    auto* row = static_cast<uint8_t*>(w.view().raw()) + s * 16;
    row[0] = 0xf1;   // 0.5, -6
    row[15] = 0x70;  // 0, 6
    scale.view().data<uint8_t>()[s] = static_cast<uint8_t>(s);
  }
  for (const int64_t rows : {1, 20}) {
    const Tensor x(DType::kF32, {rows, 32});
    for (int64_t i = 0; i < rows * 32; ++i) x.f32()[i] = i % 32 == 31 ? 0.25f : 1.0f;
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      const Tensor y(DType::kF32, {rows, kScales});
      kernels_->Linear({.x = x, .w = w, .w_scale = scale, .bias = {}, .y = y, .compute = compute},
                       StreamOf(1));
      for (int64_t i = 0; i < rows * kScales; ++i) {
        const int s = static_cast<int>(i % kScales);
        const double want = (0.5 - 6 + 1.5) * std::ldexp(1.0, s - 127);
        // Below the smallest normal number a product may be 0.
        ASSERT_NEAR(y.f32()[i], want, 4 * std::ldexp(1.0, -126)) << "exponent " << s;
      }
    }
  }
}

// DeepSeek-R1's projections are wider than any tile, and 2112 rows end inside a block.
TEST_P(LinearContract, ScalesEachBlockOfALargeMatrix) {
  if (GetParam() == "reference") GTEST_SKIP() << "the oracle itself";
  Random random(5);
  const Weights w = random.Matrix(DType::kF8E4M3, 400, 2000);
  for (int64_t i = 0; i < w.scale.view().num_elements(); ++i) {
    w.scale.f32()[i] = std::ldexp(1.0f, static_cast<int>(i % 11) - 5) / 448;
  }
  const Tensor x = random.Values(DType::kF32, {9, 2000});
  const Tensor got(DType::kF32, {9, 400});
  const Tensor want(DType::kF32, {9, 400});
  LinearArgs args{.x = x, .w = w.w, .w_scale = w.scale, .bias = {}, .y = got};
  kernels_->Linear(args, StreamOf(3));
  args.y = want;
  oracle_->Linear(args, {});
  for (int64_t i = 0; i < 9 * 400; ++i) ASSERT_NEAR(got.f32()[i], want.f32()[i], 1e-2) << i;
}

INSTANTIATE_TEST_SUITE_P(Kernels, DenseContract, testing::ValuesIn(ProductKernelSetsAndHopper()),
                         NameOfParam);
INSTANTIATE_TEST_SUITE_P(Kernels, LinearContract, testing::ValuesIn(ProductKernelSets()),
                         NameOfParam);

}  // namespace
}  // namespace choir
