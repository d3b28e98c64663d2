// linear with Compute::kF32 on the second rung: its written-down order, by every plan.
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

using emulation::Order;

constexpr DType kFormats[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr int64_t kPart = 256;  // columns that are added by themselves
constexpr size_t kRoom = size_t{8} << 20;
constexpr std::byte kUntouched{0x5a};

// Where a call runs: few multiprocessors, or no room, and a block walks all parts of K.
struct Place {
  const char* name;
  int multiprocessors;
  size_t workspace;
  Order order = Order::kForward;
};
constexpr Place kInParts{"a part a block", 10000, kRoom};
constexpr Place kWalks{"a block walks all parts", 1, kRoom};

// The order that f32_linear.cuh promises.
float SumInOrder(const Tensor& x, const Tensor& w, int64_t row, int64_t output) {
  const int64_t width = x.view().dim(1);
  float sum = 0;
  for (int64_t k0 = 0; k0 < width; k0 += kPart) {
    float part = 0;
    for (int64_t k = k0; k < std::min(k0 + kPart, width); ++k) {
      part = std::fma(x.f32()[row * width + k], static_cast<float>(w.at(output * width + k)), part);
    }
    sum = k0 == 0 ? part : sum + part;
  }
  return sum;
}

class F32Linear : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { std::memset(memory_.get(), static_cast<int>(kUntouched), kRoom); }
  void TearDown() override { emulation::SetEmulatedCard(emulation::kEmulatedCard); }

  cuda::KernelStream At(const Place& place) {
    emulation::SetEmulatedCard({place.multiprocessors, 227 * 1024});
    return {.native = emulation::StreamInOrder(place.order),
            .workspace = {memory_.get(), place.workspace}};
  }
  Tensor Run(LinearArgs args, const Place& place) {
    const Tensor y(DType::kF32, {args.x.dim(0), args.w.dim(0)});
    args.y = y;
    gpu_.linear(args, At(place));
    return y;
  }
  // Bytes from there on that no kernel wrote; those before are as fresh again.
  bool IsUntouched(size_t from) {
    const bool same = std::all_of(memory_.get() + from, memory_.get() + kRoom,
                                  [](std::byte value) { return value == kUntouched; });
    SetUp();
    return same;
  }
  bool emulated() const { return GetParam().find("emulated") != std::string::npos; }

  const cuda::KernelTable& gpu_ = GpuTable(GetParam());
  const std::unique_ptr<KernelSet> oracle_ = MakeReferenceKernels();
  const std::shared_ptr<std::byte> memory_ = TestBytes(kRoom);
};

// Ends within a chunk, a part, a tile; rows that begin at any float, and at any multiple of 16
// bytes.
struct Shape {
  int64_t rows, outputs, width;
};
constexpr Shape kShapes[] = {{1, 1, 1},     {3, 255, 257},  {1, 256, 7168}, {16, 33, 255},
                             {17, 1, 1030}, {66, 70, 1288}, {20, 257, 513}};

TEST_P(F32Linear, AgreesWithTheReference) {
  Random random(1);
  for (const Shape& s : kShapes) {
    for (const DType dtype : kFormats) {
      SCOPED_TRACE(fmt::format("{} x {} -> {}, {}", s.rows, s.width, s.outputs, NameOf(dtype)));
      const Tensor x = random.Values(DType::kF32, {s.rows, s.width});
      const Tensor w = random.Values(dtype, {s.outputs, s.width});
      const Tensor bias = random.Values(random.WeightType(), {s.outputs});
      const Tensor before = random.Values(DType::kF32, {s.rows, s.outputs});
      for (const bool more : {false, true}) {
        const Tensor got = before.Clone(), want = before.Clone();
        LinearArgs args{.x = x, .w = w, .w_scale = {}, .bias = {}, .y = got, .accumulate = more};
        if (more) args.bias = bias;
        gpu_.linear(args, At(random.Coin() ? kInParts : kWalks));
        args.y = want;
        oracle_->Linear(args, {});
        const auto terms = static_cast<double>(s.width);  // of at most 1
        for (int64_t i = 0; i < s.rows * s.outputs; ++i) {
          ASSERT_NEAR(got.f32()[i], want.f32()[i], DotBound(s.width, terms / 2 + 2)) << i;
        }
      }
    }
  }
}

TEST_P(F32Linear, AddsInTheOrderThatIsWrittenDown) {
  Random random(2);
  for (const Shape& s : kShapes) {
    for (const DType dtype : kFormats) {
      SCOPED_TRACE(fmt::format("{} x {} -> {}, {}", s.rows, s.width, s.outputs, NameOf(dtype)));
      const Tensor x = random.Values(DType::kF32, {s.rows, s.width});
      const Tensor w = random.Values(dtype, {s.outputs, s.width});
      const Tensor bias = random.Values(DType::kBF16, {s.outputs});
      const Tensor y = random.Values(DType::kF32, {s.rows, s.outputs});
      Tensor want(DType::kF32, {s.rows, s.outputs}), with_all = want.Clone();
      for (int64_t i = 0; i < s.rows * s.outputs; ++i) {
        want.f32()[i] = SumInOrder(x, w, i / s.outputs, i % s.outputs);
        with_all.f32()[i] = y.f32()[i] + (want.f32()[i] + ToF32(bias.view().b16()[i % s.outputs]));
      }
      for (const Place& place : {kInParts, kWalks}) {
        LinearArgs args{.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}};
        ExpectSameBits(Run(args, place).f32(), want.f32(), s.rows * s.outputs, place.name);
        const Tensor got = y.Clone();
        args.bias = bias;
        args.y = got;
        args.accumulate = true;
        gpu_.linear(args, At(place));
        ExpectSameBits(got.f32(), with_all.f32(), s.rows * s.outputs, "with bias and y");
      }
    }
  }
}

// The workspace shows which plan it was.
TEST_P(F32Linear, EveryPlanGivesTheSameBits) {
  Random random(3);
  for (const int64_t rows : {5, 130}) {
    constexpr int64_t kOutputs = 70, kWidth = 1000;
    const size_t bytes = static_cast<size_t>(4 * rows * kOutputs) * sizeof(float);
    const size_t room = (bytes + 255) / 256 * 256;
    const Place places[] = {
        kInParts,
        kWalks,
        {"just room for parts, backward", 10000, room, Order::kBackward},
        {"no room for all sums, shuffled", 10000, room - 256, Order::kShuffled},
        {"no workspace, backward", 10000, 0, Order::kBackward},
    };
    for (const DType dtype : kFormats) {
      const Tensor x = random.Values(DType::kF32, {rows, kWidth});
      const Tensor w = random.Values(dtype, {kOutputs, kWidth});
      const LinearArgs args{.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}};
      const Tensor want = Run(args, kInParts);
      const bool anything = !IsUntouched(0);
      EXPECT_TRUE(anything || !emulated());
      for (const Place& place : places) {
        ExpectSameBits(Run(args, place).f32(), want.f32(), rows * kOutputs, place.name);
        if (!emulated()) continue;
        const bool in_parts = place.multiprocessors > 1 && place.workspace >= room;
        EXPECT_EQ(memory_.get()[bytes - 1] == kUntouched, !in_parts) << place.name;
        EXPECT_TRUE(IsUntouched(in_parts ? bytes : 0)) << place.name;
      }
    }
  }
}

// 6 of 4 multiprocessors: parts below, walks from there on.
TEST_P(F32Linear, WalksFromOneAndAHalfTilesAMultiprocessorOn) {
  if (!emulated()) GTEST_SKIP() << "a card has as many multiprocessors as it has";
  Random random(4);
  constexpr int64_t kRows = 2, kWidth = 260, kTileOutputs = 32;
  for (const int64_t tiles : {5, 6}) {
    const Tensor x = random.Values(DType::kF32, {kRows, kWidth});
    const Tensor w = random.Values(DType::kF32, {tiles * kTileOutputs, kWidth});
    Run({.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}}, {"", 4, kRoom});
    EXPECT_EQ(IsUntouched(0), tiles == 6);
  }
}

TEST_P(F32Linear, RowHasTheSameBitsAloneAndInAnyBatch) {
  Random random(5);
  constexpr int64_t kMost = 130, kOutputs = 37, kWidth = 600;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor x = random.Values(DType::kF32, {kMost, kWidth});
    const Tensor w = random.Values(dtype, {kOutputs, kWidth});
    LinearArgs args{.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}};
    const Tensor whole = Run(args, kWalks);
    for (int64_t count = 1; count <= kMost; ++count) {
      const int64_t begin = random.Int(0, kMost - count);
      args.x = x.view().Rows(begin, count);
      const Tensor got = Run(args, count % 3 == 0 ? kWalks : kInParts);
      ExpectSameBits(got.f32(), whole.f32() + begin * kOutputs, count * kOutputs, "batch");
    }
  }
}

// A row that is no number, or infinite, stays alone; so does a row of weights.
TEST_P(F32Linear, NothingComesFromOtherRows) {
  Random random(6);
  constexpr int64_t kOutputs = 40, kWidth = 300;
  for (const int64_t rows : {4, 70}) {
    const Tensor x = random.Values(DType::kF32, {rows, kWidth}), spoiled = x.Clone();
    const Tensor w = random.Values(DType::kF32, {kOutputs, kWidth}), spoiled_w = w.Clone();
    std::fill_n(spoiled.f32() + 2 * kWidth, kWidth, std::nanf(""));
    std::fill_n(spoiled_w.f32() + 33 * kWidth, kWidth, INFINITY);
    for (const Place& place : {kInParts, kWalks}) {
      const Tensor want = Run({.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}}, place);
      const Tensor got =
          Run({.x = spoiled, .w = spoiled_w, .w_scale = {}, .bias = {}, .y = {}}, place);
      for (int64_t i = 0; i < rows * kOutputs; ++i) {
        const bool apart = i / kOutputs == 2 || i % kOutputs == 33;
        ASSERT_EQ(got.f32()[i] == want.f32()[i], !apart) << place.name << ", element " << i;
      }
    }
  }
}

// Neither what lies behind the rows and outputs that exist, nor anything behind K: a view of a
// larger matrix whose rest is NaN, at a place of 16 bytes and beside one.
TEST_P(F32Linear, ReadsAndWritesWhatExists) {
  Random random(7);
  constexpr int64_t kRows = 5, kOutputs = 35;
  for (const int64_t width : {260, 263}) {
    for (const int64_t shift : {0, 1, 4}) {
      for (const DType dtype : kFormats) {
        const Tensor x(DType::kF32, {(kRows + 9) * width}), w(dtype, {(kOutputs + 9) * width});
        std::fill_n(x.f32(), x.view().num_elements(), std::nanf(""));
        std::memset(w.view().raw(), 0xff, w.view().num_bytes());
        const Tensor x_values = random.Values(DType::kF32, {kRows, width});
        const Tensor w_values = random.Values(dtype, {kOutputs, width});
        const auto unit = static_cast<int64_t>(BytesOf(dtype, 1));
        auto* w_at = static_cast<std::byte*>(w.view().raw()) + shift * unit;
        std::memcpy(x.f32() + shift, x_values.f32(), x_values.view().num_bytes());
        std::memcpy(w_at, w_values.view().raw(), w_values.view().num_bytes());
        const LinearArgs moved{.x = TensorView(x.f32() + shift, DType::kF32, {kRows, width}),
                               .w = TensorView(w_at, dtype, {kOutputs, width}),
                               .w_scale = {},
                               .bias = {},
                               .y = {}};
        const LinearArgs plain{.x = x_values, .w = w_values, .w_scale = {}, .bias = {}, .y = {}};
        for (const Place& place : {kInParts, kWalks}) {
          const Tensor y(DType::kF32, {kRows + 60, kOutputs});
          std::fill_n(y.f32(), y.view().num_elements(), 7.0f);
          LinearArgs args = moved;
          args.y = y.view().Rows(0, kRows);
          gpu_.linear(args, At(place));
          ExpectSameBits(y.f32(), Run(plain, place).f32(), kRows * kOutputs, place.name);
          for (int64_t i = kRows * kOutputs; i < y.view().num_elements(); ++i) {
            ASSERT_EQ(y.f32()[i], 7.0f) << "behind the last row, " << i;
          }
        }
      }
    }
  }
}

// Products that vanish below zero: each part is -0, and so is their sum.
TEST_P(F32Linear, KeepsTheSignOfNothing) {
  constexpr int64_t kRows = 3, kOutputs = 4, kWidth = 2 * kPart;
  const Tensor x(DType::kF32, {kRows, kWidth}), w(DType::kF32, {kOutputs, kWidth});
  std::fill_n(x.f32(), kRows * kWidth, 1e-30f);
  std::fill_n(w.f32(), kOutputs * kWidth, -1e-30f);
  for (const Place& place : {kInParts, kWalks}) {
    const Tensor y = Run({.x = x, .w = w, .w_scale = {}, .bias = {}, .y = {}}, place);
    for (int64_t i = 0; i < kRows * kOutputs; ++i) {
      ASSERT_TRUE(y.f32()[i] == 0 && std::signbit(y.f32()[i])) << place.name << ", element " << i;
    }
  }
}

TEST_P(F32Linear, ScaledFormatsGoTheSimpleWay) {
  Random random(8);
  for (const DType dtype : {DType::kF8E4M3, DType::kF4E2M1}) {
    const Tensor x = random.Values(DType::kF32, {20, 320});
    const Weights w = random.Matrix(dtype, 70, 320);
    const LinearArgs args{.x = x, .w = w.w, .w_scale = w.scales(), .bias = {}, .y = {}};
    const Tensor got = Run(args, kInParts), want(DType::kF32, {20, 70});
    LinearArgs simple = args;
    simple.y = want;
    GpuTable("gpu_emulated").linear(simple, {});
    ExpectSameBits(got.f32(), want.f32(), 20 * 70, "simple");
    EXPECT_TRUE(IsUntouched(0));
  }
}

std::vector<std::string> FastTables() {
  std::vector<std::string> names = TensorTableNames();
  for (const std::string& name : HopperTableNames()) {  // takes it from the rung below
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Tables, F32Linear, testing::ValuesIn(FastTables()), NameOfParam);

}  // namespace
}  // namespace choir
