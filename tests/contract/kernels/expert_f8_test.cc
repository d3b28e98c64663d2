// expert_ffn with rows in f8: the reference against the ops that it is made of, every GPU table
// against the reference.
#include <cmath>

#include "tests/contract/kernels/gpu_ops_test.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

struct Shape {
  std::vector<int32_t> offsets;
  int64_t hidden, inner;
  int64_t x_gap = 0, scale_gap = 0;  // between rows, behind each
  Glu glu;
};

// Rows as an exchange leaves them: between them lies what is no number.
struct F8Experts {
  F8Experts(Random& random, const Shape& of) : shape(of), rows(of.offsets.back()) {
    const int64_t across = (shape.hidden + 127) / 128;
    x_stride = shape.hidden + shape.x_gap;
    scale_stride = across + shape.scale_gap;
    const Tensor values = random.Values(DType::kF32, {rows, shape.hidden}, 2.0f);
    codes = Tensor(DType::kF8E4M3, {rows, shape.hidden});
    scales = Tensor(DType::kF32, {rows, across});
    reference::QuantizeF8({.x = values, .y = codes, .y_scale = scales});
    x = Tensor(DType::kF8E4M3, {rows, x_stride});
    x_scale = Tensor(DType::kF32, {rows, scale_stride});
    std::memset(x.view().raw(), 0x7f, x.view().num_bytes());
    std::fill_n(x_scale.f32(), rows * scale_stride, std::nanf(""));
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(Codes(r), codes.view().Rows(r, 1).raw(), static_cast<size_t>(shape.hidden));
      std::copy_n(scales.f32() + r * across, across, x_scale.f32() + r * scale_stride);
    }
    const float range = 1.0f / std::sqrt(static_cast<float>(shape.hidden));
    for (size_t e = 0; e + 1 < shape.offsets.size(); ++e) {
      gate.push_back(random.Matrix(DType::kF8E4M3, shape.inner, shape.hidden, 3 * range));
      up.push_back(random.Matrix(DType::kF8E4M3, shape.inner, shape.hidden, 3 * range));
      down.push_back(random.Matrix(DType::kF8E4M3, shape.hidden, shape.inner));
      ExpertWeights& w = weights.emplace_back();
      w.gate = gate.back().w, w.gate_scale = gate.back().scale;
      w.up = up.back().w, w.up_scale = up.back().scale;
      w.down = down.back().w, w.down_scale = down.back().scale;
    }
  }

  uint8_t* Codes(int64_t row) const { return x.view().data<uint8_t>() + row * x_stride; }
  float* Scales(int64_t row) const { return x_scale.f32() + row * scale_stride; }
  // Rows [begin, begin + count).
  ExpertFfnArgs Args(const Tensor& y, const Tensor& scratch, int64_t begin, int64_t count) const {
    const int64_t across = (shape.hidden + 127) / 128;
    return {.x = TensorView(Codes(begin), DType::kF8E4M3, {count, shape.hidden}),
            .x_scale = TensorView(Scales(begin), DType::kF32, {count, across}),
            .offsets = shape.offsets,
            .experts = weights,
            .y = y,
            .scratch = scratch,
            .compute = Compute::kBF16,
            .glu = shape.glu,
            .x_stride = shape.x_gap > 0 ? x_stride : 0,
            .x_scale_stride = shape.scale_gap > 0 ? scale_stride : 0};
  }
  Tensor Run(const cuda::KernelTable& gpu, const cuda::KernelStream& stream) const {
    const Tensor y(DType::kF32, {rows, shape.hidden}), scratch(DType::kF32, {rows, shape.inner});
    gpu.expert_ffn(Args(y, scratch, 0, rows), stream);
    return y;
  }
  Tensor RunReference() const {
    const Tensor y(DType::kF32, {rows, shape.hidden}), scratch(DType::kF32, {rows, shape.inner});
    MakeReferenceKernels()->ExpertFfn(Args(y, scratch, 0, rows), {});
    return y;
  }

  Shape shape;
  int64_t rows = 0, x_stride = 0, scale_stride = 0;
  Tensor codes, scales;  // the rows one behind the other
  Tensor x, x_scale;
  std::vector<Weights> gate, up, down;
  std::vector<ExpertWeights> weights;
};

// A value of glu's near the middle of two of f8 may become either, an eighth of it apart: that may
// be a few hundredths of a row. All in all it is rare.
void ExpectClose(const Tensor& got, const Tensor& want, double part_of_all) {
  const int64_t width = want.view().dim(1);
  double all_off = 0, all = 0;
  for (int64_t r = 0; r < want.view().dim(0); ++r) {
    double off = 0, size = 0;
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      off += (got.at(i) - want.at(i)) * (got.at(i) - want.at(i));
      size += want.at(i) * want.at(i);
    }
    ASSERT_LE(std::sqrt(off), 0.06 * std::sqrt(size)) << "row " << r;
    all_off += off;
    all += size;
  }
  EXPECT_LE(std::sqrt(all_off), part_of_all * std::sqrt(all));
}

constexpr Glu kClamped{Glu::Kind::kClamped, 1.3f, 1.702f};

std::vector<Shape> Shapes() {
  return {{{0, 3, 3, 20}, 128, 256, 16, 3, {}},
          {{0, 150, 150, 290}, 256, 128, 0, 1, {}},  // tall tiles
          {{0, 2, 3}, 128, 1280, 128, 0, kClamped},  // more parts of a row than warps
          {{0, 70}, 192, 128, 64, 0, {}},            // of the tensor rung, not of Hopper's
          {{0, 4, 9}, 128, 128, 8, 0, {}},           // the same: rows at multiples of 8
          {{0, 5, 5, 9}, 70, 50, 3, 2, kClamped},    // of the simple kernels alone
          {{0, 17}, 130, 257, 0, 0, {}}};
}

// gate, up, glu, quantize, down, by the ops of these names.
Tensor Composed(const F8Experts& c) {
  const int64_t hidden = c.shape.hidden, inner = c.shape.inner;
  const Tensor gates(DType::kF32, {c.rows, inner}), ups = gates.Clone(), h = gates.Clone();
  const Tensor y(DType::kF32, {c.rows, hidden});
  const Tensor codes(DType::kF8E4M3, {c.rows, inner});
  const Tensor scales(DType::kF32, {c.rows, (inner + 127) / 128});
  const auto product = [&](const Tensor& x, const Tensor& scale, const std::vector<Weights>& w,
                           const Tensor& out) {
    for (size_t e = 0; e < w.size(); ++e) {
      const int64_t begin = c.shape.offsets[e], count = c.shape.offsets[e + 1] - begin;
      const int32_t all[] = {0, static_cast<int32_t>(count)};
      reference::GroupedGemm({.x = x.view().Rows(begin, count),
                              .x_scale = scale.view().Rows(begin, count),
                              .w = w[e].w,
                              .w_scale = w[e].scale,
                              .y = out.view().Rows(begin, count),
                              .offsets = all});
    }
  };
  product(c.codes, c.scales, c.gate, gates);
  product(c.codes, c.scales, c.up, ups);
  MakeReferenceKernels()->SwiGlu({.gate = gates, .up = ups, .y = h}, {});
  reference::QuantizeF8({.x = h, .y = codes, .y_scale = scales});
  product(codes, scales, c.down, y);
  return y;
}

TEST(ReferenceExpertsInF8, AreTheProductsAndRoundingsThatTheyAreMadeOf) {
  Random random(1);
  for (const Shape& shape : Shapes()) {
    if (shape.glu.kind != Glu::Kind::kSilu) continue;
    const F8Experts c(random, shape);
    ExpectClose(c.RunReference(), Composed(c), 1e-4);
  }
}

TEST(ReferenceExpertsInF8DeathTest, OtherFormsOfTheOpHaveNoRowsInF8) {
  Random random(2);
  const F8Experts c(random, {{0, 2}, 128, 128, 0, 0, {}});
  const Tensor y(DType::kF32, {2, 128}), scratch = y.Clone();
  const auto kernels = MakeReferenceKernels();
  const auto refused = [&](const std::function<void(ExpertFfnArgs*, ExpertWeights*)>& change) {
    ExpertFfnArgs args = c.Args(y, scratch, 0, 2);
    ExpertWeights expert = c.weights[0];
    change(&args, &expert);
    args.experts = std::span(&expert, 1);
    EXPECT_DEATH(kernels->ExpertFfn(args, {}), "CHECK|check");
  };
  refused([](ExpertFfnArgs* a, ExpertWeights*) { a->compute = Compute::kF32; });
  refused([](ExpertFfnArgs* a, ExpertWeights*) { a->input_major = true; });
  refused([](ExpertFfnArgs* a, ExpertWeights*) { a->x_scale = {}; });
  refused([](ExpertFfnArgs* a, ExpertWeights*) { a->x_stride = 127; });
  refused([](ExpertFfnArgs*, ExpertWeights* w) { w->up = {}; });
  refused([&](ExpertFfnArgs*, ExpertWeights* w) { w->down_bias = scratch.view().Rows(0, 1); });
  refused([&](ExpertFfnArgs*, ExpertWeights* w) { w->gate = scratch; });
  ExpertFfnArgs plain = c.Args(y, scratch, 0, 2);
  plain.x = scratch;
  EXPECT_DEATH(kernels->ExpertFfn(plain, {}), "CHECK|check");
}

std::vector<std::string> TablesAndHopper() {
  std::vector<std::string> names = ProductKernelSetsAndHopper();
  std::erase_if(names, [](const std::string& name) { return !name.starts_with("gpu"); });
  return names;
}

using ExpertsInF8 = GpuOps;

TEST_P(ExpertsInF8, AgreeWithTheReference) {
  Random random(3);
  for (const Shape& shape : Shapes()) {
    const F8Experts c(random, shape);
    ExpectClose(c.Run(gpu_, Any(random)), c.RunReference(), 0.005);
  }
}

// Many rows of an expert take taller tiles than one.
TEST_P(ExpertsInF8, ARowHasTheSameBitsAlone) {
  Random random(4);
  for (const Shape& shape : Shapes()) {
    const F8Experts c(random, shape);
    const Tensor whole = c.Run(gpu_, Any(random));
    size_t expert = 0;
    for (int64_t r = 0; r < c.rows; r += 1 + c.rows / 5) {
      while (r >= shape.offsets[expert + 1]) ++expert;
      const Tensor y(DType::kF32, {1, shape.hidden}), scratch(DType::kF32, {1, shape.inner});
      const std::vector<int32_t> offsets = {0, 1};
      // A row of its own begins where the copy engine can read it, as all do in the whole.
      const Tensor row(DType::kF8E4M3, {1, shape.hidden});
      std::memcpy(row.view().raw(), c.Codes(r), static_cast<size_t>(shape.hidden));
      ExpertFfnArgs args = c.Args(y, scratch, r, 1);
      if (c.x_stride % 16 == 0) args.x = row;
      args.offsets = offsets;
      args.experts = std::span(&c.weights[expert], 1);
      gpu_.expert_ffn(args, Any(random));
      ExpectSameBits(y.f32(), whole.f32() + r * shape.hidden, shape.hidden, "row");
    }
  }
}

TEST_P(ExpertsInF8, TheOrderOfThreadsChangesNoBit) {
  Random random(5);
  const F8Experts c(random, {{0, 3, 3, 75}, 256, 1280, 16, 1, {}});
  const Tensor scratch(DType::kF32, {c.rows, c.shape.inner});
  ExpectNoOrder(Tensor(DType::kF32, {c.rows, c.shape.hidden}), workspace_,
                [&](const Tensor& y, const cuda::KernelStream& s) {
                  gpu_.expert_ffn(c.Args(y, scratch, 0, c.rows), s);
                });
}

// Offsets that only the device has, and fewer rows than there may be.
TEST_P(ExpertsInF8, RowsThatAreNobodysAreLeftOut) {
  Random random(6);
  F8Experts c(random, {{0, 9, 12}, 128, 128, 0, 0, {}});
  const Tensor want = c.Run(gpu_, Any(random));
  const F8Experts more(random, {{0, 9, 30}, 128, 128, 0, 0, {}});
  std::memcpy(more.Codes(0), c.Codes(0), static_cast<size_t>(12 * 128));
  std::copy_n(c.Scales(0), 12, more.Scales(0));
  const Tensor y(DType::kF32, {30, 128}), scratch = y.Clone();
  ExpertFfnArgs args = more.Args(y, scratch, 0, 30);
  args.experts = c.weights;
  const std::shared_ptr<const int32_t> offsets = CopyForDevice(c.shape.offsets);
  args.offsets = Staged<int32_t>(nullptr, 3, offsets.get());
  gpu_.expert_ffn(args, Any(random));
  ExpectSameBits(y.f32(), want.f32(), 12 * 128, "rows");
}

INSTANTIATE_TEST_SUITE_P(Tables, ExpertsInF8, testing::ValuesIn(TablesAndHopper()), NameOfParam);

// With no maps nothing is computed: not by the rung below either.
TEST(HopperExpertsInF8, AreItsOwnKernels) {
  Random random(8);
  const std::shared_ptr<std::byte> memory = TestBytes(size_t{1} << 20);
  const F8Experts c(random, {{0, 4, 9}, 128, 128, 16, 1, {}});
  emulation::RefuseMaps(true);
  const Tensor got = c.Run(GpuTable("gpu_hopper_emulated"), {nullptr, {memory.get(), 1 << 20}});
  emulation::RefuseMaps(false);
  emulation::EmulatedDevices().forget();
  ExpectSameBytes(got, Tensor(DType::kF32, {9, 128}), "y");
}

// What Hopper's copy engine cannot read is left to the tensor rung, by its stride alone.
TEST(HopperExpertsInF8, RowsAtOddPlacesHaveTheBitsOfTheRungBelow) {
  Random random(7);
  const std::shared_ptr<std::byte> memory = TestBytes(size_t{1} << 20);
  const cuda::KernelStream stream{nullptr, {memory.get(), size_t{1} << 20}};
  for (const Shape& shape : {Shape{{0, 4, 9}, 128, 128, 8, 0, {}}, Shape{{0, 9}, 64, 128}}) {
    const F8Experts c(random, shape);
    emulation::RefuseMaps(true);
    const Tensor got = c.Run(GpuTable("gpu_hopper_emulated"), stream);
    emulation::RefuseMaps(false);
    ExpectSameBytes(got, c.Run(GpuTable("gpu_tensor_emulated"), stream), "y");
  }
}

}  // namespace
}  // namespace choir
