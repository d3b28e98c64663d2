#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class MoeContract : public KernelsTest {};
class ExpertsContract : public KernelsTest {};

struct Gate {
  Tensor logits, bias, ids, weights;
  GateTopKArgs args;
};

// Scores of different experts differ by far more than rounding, so that the choice is certain.
Gate MakeGate(Random& random) {
  Gate c;
  const int64_t rows = random.Int(0, 70);
  const int64_t groups = random.Coin() ? 1 : 4;
  const int64_t experts = groups * random.Int(2, 16);
  const int64_t top_k = random.Int(1, std::min<int64_t>(8, experts / groups));
  c.logits = Tensor(DType::kF32, {rows, experts});
  std::vector<float> steps(static_cast<size_t>(experts));
  for (int64_t t = 0; t < rows; ++t) {
    for (size_t i = 0; i < steps.size(); ++i) {
      steps[i] = 4.0f * static_cast<float>(i) / static_cast<float>(experts) - 2.0f +
                 random.Float(0.2f / static_cast<float>(experts));
    }
    for (size_t i = steps.size(); i > 1; --i) {
      std::swap(steps[i - 1],
                steps[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i) - 1))]);
    }
    std::copy(steps.begin(), steps.end(), c.logits.f32() + t * experts);
  }
  c.ids = Tensor(DType::kI32, {rows, top_k});
  c.weights = Tensor(DType::kF32, {rows, top_k});
  c.args.logits = c.logits;
  c.args.score = static_cast<GateScore>(random.Int(0, 2));
  c.args.num_groups = static_cast<int32_t>(groups);
  c.args.groups_kept = static_cast<int32_t>(random.Int(1, groups));
  c.args.group_score = random.Coin() ? GroupScore::kBest : GroupScore::kSumOfBestTwo;
  c.args.masked_score_is_zero = c.args.score == GateScore::kSoftmax && random.Coin();
  c.args.normalize = random.Coin();
  c.args.scaling = random.Coin() ? 1.0f : 2.5f;
  c.args.expert_ids = c.ids;
  c.args.weights = c.weights;
  return c;
}

TEST_P(MoeContract, GateAgreesWithTheReference) {
  ForSeeds(60, [&](Random& random) {
    Gate c = MakeGate(random);
    kernels_->GateTopK(c.args, Any(random));
    const int64_t count = c.ids.view().num_elements();
    const Tensor ids(DType::kI32, {c.ids.view().dim(0), c.ids.view().dim(1)});
    const Tensor weights(DType::kF32, {c.ids.view().dim(0), c.ids.view().dim(1)});
    c.args.expert_ids = ids;
    c.args.weights = weights;
    oracle_->GateTopK(c.args, {});
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(c.ids.view().data<int32_t>()[i], ids.view().data<int32_t>()[i]) << "choice " << i;
      // exp, a sum of at most 64 terms, and a handful of operations.
      ASSERT_NEAR(c.weights.at(i), weights.at(i), 64 * kUnit * std::abs(weights.at(i)));
    }
  });
}

// A large value for every third expert and for the last; the others are chosen by nobody.
TEST_P(MoeContract, GateTakesAsManyExpertsAsItPromises) {
  constexpr int64_t kTopK = kGateExpertsMax / 3;
  const Tensor logits(DType::kF32, {1, kGateExpertsMax});
  const Tensor ids(DType::kI32, {1, kTopK}), weights(DType::kF32, {1, kTopK});
  for (int64_t e = 0; e < kGateExpertsMax; ++e) {
    logits.f32()[e] = e % 3 == 1 || e == kGateExpertsMax - 1 ? 4.0f : 0.0f;
  }
  logits.f32()[1] = 3.0f;  // one too many: the least of them is not chosen
  kernels_->GateTopK({.logits = logits,
                      .score = GateScore::kSigmoid,
                      .groups_kept = 1,
                      .normalize = true,
                      .expert_ids = ids,
                      .weights = weights},
                     StreamOf(2));
  const int32_t* chosen = ids.view().data<int32_t>();
  EXPECT_EQ(chosen[0], 4);
  EXPECT_EQ(chosen[kTopK - 1], kGateExpertsMax - 1);
  for (int64_t k = 0; k < kTopK; ++k) EXPECT_NEAR(weights.at(k), 1.0 / kTopK, 1e-6);
}

TEST_P(MoeContract, GateChoosesByBiasButWeighsWithoutIt) {
  const Tensor logits(DType::kF32, {1, 4});
  const Tensor bias(DType::kF32, {4});
  const Tensor ids(DType::kI32, {1, 2});
  const Tensor weights(DType::kF32, {1, 2});
  bias.f32()[3] = 10.0f;
  bias.f32()[1] = 5.0f;
  logits.f32()[0] = 2.0f;
  kernels_->GateTopK({.logits = logits,
                      .bias = bias,
                      .score = GateScore::kSigmoid,
                      .expert_ids = ids,
                      .weights = weights},
                     StreamOf(1));
  EXPECT_EQ(ids.view().data<int32_t>()[0], 1);
  EXPECT_EQ(ids.view().data<int32_t>()[1], 3);
  EXPECT_NEAR(weights.f32()[0], 0.5f, 1e-6f);
  EXPECT_NEAR(weights.f32()[1], 0.5f, 1e-6f);
}

TEST_P(MoeContract, GateBreaksTiesByTheLowerIndex) {
  const Tensor logits(DType::kF32, {1, 12});  // all equal, groups too
  const Tensor ids(DType::kI32, {1, 3});
  const Tensor weights(DType::kF32, {1, 3});
  kernels_->GateTopK({.logits = logits,
                      .score = GateScore::kSigmoid,
                      .num_groups = 4,
                      .groups_kept = 2,
                      .group_score = GroupScore::kSumOfBestTwo,
                      .expert_ids = ids,
                      .weights = weights},
                     StreamOf(1));
  for (int32_t k = 0; k < 3; ++k) EXPECT_EQ(ids.view().data<int32_t>()[k], k);
}

TEST_P(MoeContract, GateRefusesGroupsEvenWhenAllTheirRivalsAreNegative) {
  const Tensor logits(DType::kF32, {1, 4});
  const Tensor bias(DType::kF32, {4});
  const Tensor ids(DType::kI32, {1, 2});
  const Tensor weights(DType::kF32, {1, 2});
  // Group 0 wins, yet its second expert's choice value is below 0: a mask of 0 would prefer
  // group 1.
  const float biases[] = {5.0f, -3.0f, -1.0f, -1.0f};
  std::copy_n(biases, 4, bias.f32());
  kernels_->GateTopK({.logits = logits,
                      .bias = bias,
                      .score = GateScore::kSigmoid,
                      .num_groups = 2,
                      .groups_kept = 1,
                      .expert_ids = ids,
                      .weights = weights},
                     StreamOf(1));
  EXPECT_EQ(ids.view().data<int32_t>()[0], 0);
  EXPECT_EQ(ids.view().data<int32_t>()[1], 1);
}

TEST_P(MoeContract, GateOfATokenHasTheSameBitsAlone) {
  ForSeeds(10, [&](Random& random) {
    Gate c = MakeGate(random);
    kernels_->GateTopK(c.args, Any(random));
    const int64_t top_k = c.ids.view().dim(1);
    const Tensor ids(DType::kI32, {1, top_k});
    const Tensor weights(DType::kF32, {1, top_k});
    for (int64_t t = 0; t < c.logits.view().dim(0); ++t) {
      c.args.logits = c.logits.view().Rows(t, 1);
      c.args.expert_ids = ids;
      c.args.weights = weights;
      kernels_->GateTopK(c.args, StreamOf(1));
      ExpectSameBits(weights.f32(), c.weights.f32() + t * top_k, top_k, "token");
    }
  });
}

struct Experts {
  Tensor x, y, scratch;
  std::vector<Weights> gate, up, down;  // output-major; fused: gate holds both, up is empty
  std::vector<Tensor> gate_bias, down_bias;
  std::vector<Tensor> transposed;  // what `weights` views of input-major matrices
  std::vector<ExpertWeights> weights;
  std::vector<int32_t> offsets;
  DType dtype = DType::kF32;
  Compute compute = Compute::kF32;
  Glu glu;
  bool fused = false;
  bool input_major = false;
  int64_t rows = 0, hidden = 0, inner = 0;

  ExpertFfnArgs Args() const {
    return {.x = x,
            .offsets = offsets,
            .experts = weights,
            .y = y,
            .scratch = scratch,
            .compute = compute,
            .glu = glu,
            .input_major = input_major};
  }
  // Gate (or up) of inner element f as it weighs x[i].
  double Gate(size_t e, int64_t f, int64_t i) const { return gate[e].at(fused ? 2 * f : f, i); }
  double Up(size_t e, int64_t f, int64_t i) const {
    return fused ? gate[e].at(2 * f + 1, i) : up[e].at(f, i);
  }
  // Products of a sum in a row, at most: input-major sums have no lanes.
  int64_t Terms(int64_t n) const { return input_major ? 4 * n : n; }
};

// [rows, width] as [width, rows].
Tensor Transposed(const Tensor& w) {
  const int64_t rows = w.view().dim(0);
  const int64_t width = w.view().dim(1);
  const size_t size = SizeOf(w.view().dtype());
  const Tensor t(w.view().dtype(), {width, rows});
  for (int64_t i = 0; i < rows * width; ++i) {
    std::memcpy(static_cast<std::byte*>(t.view().raw()) +
                    static_cast<size_t>(i % width * rows + i / width) * size,
                static_cast<std::byte*>(w.view().raw()) + static_cast<size_t>(i) * size, size);
  }
  return t;
}

void ChooseForm(Random& random, Experts* c) {
  c->dtype = random.AnyFormat();
  c->fused = random.Coin();
  const bool plain = c->dtype != DType::kF8E4M3 && c->dtype != DType::kF4E2M1;
  c->input_major = c->fused && plain && random.Coin();
  if (random.Coin())
    c->glu = {Glu::Kind::kClamped, 0.3f + static_cast<float>(random.Int(0, 3)), 1.702f};
  c->compute = random.AnyCompute();
  c->hidden = random.Coin() ? random.Int(1, 150) : 64;
  c->inner = random.Coin() ? random.Int(1, 150) : 128;
  if (c->dtype == DType::kF4E2M1) {
    c->hidden = 32 * random.Int(1, 5);
    c->inner = 32 * random.Int(1, 5);
  }
  if (random.Int(0, 9) == 0) {  // rows a power of two apart
    c->hidden = 2048;
    c->inner = c->dtype == DType::kF4E2M1 ? 32 : random.Int(1, 8);
  }
}

// What the Hopper rung does by itself; the rest it leaves to the rung below.
void ChooseHopperForm(Random& random, Experts* c) {
  c->dtype = random.Coin() ? DType::kBF16 : DType::kF8E4M3;
  c->input_major = false;
  c->compute = Compute::kBF16;
  const int64_t unit = c->dtype == DType::kBF16 ? 64 : 128;
  c->hidden = unit * random.Int(1, 3);
  c->inner = unit * random.Int(1, 2);
}

Experts MakeExperts(Random& random, const std::string& kernels) {
  Experts c;
  const int64_t count = random.Int(1, 7);
  ChooseForm(random, &c);
  if (IsHopper(kernels)) ChooseHopperForm(random, &c);
  c.offsets.push_back(0);
  for (int64_t e = 0; e < count; ++e) {
    const int64_t rows = random.Coin() ? 0 : random.Int(0, random.Coin() ? 4 : 70);
    c.offsets.push_back(c.offsets.back() + static_cast<int32_t>(rows));
    const float range = 1.0f / std::sqrt(static_cast<float>(c.hidden));
    ExpertWeights& w = c.weights.emplace_back();
    c.gate.push_back(random.Matrix(c.dtype, c.fused ? 2 * c.inner : c.inner, c.hidden, 3 * range));
    c.down.push_back(random.Matrix(c.dtype, c.hidden, c.inner));
    w.gate = c.gate.back().w;
    w.down = c.down.back().w;
    w.gate_scale = c.gate.back().scales();
    w.down_scale = c.down.back().scales();
    if (c.fused) {
      if (random.Coin()) {
        c.gate_bias.push_back(random.Values(random.WeightType(), {2 * c.inner}));
        w.gate_bias = c.gate_bias.back();
      }
    } else {
      c.up.push_back(random.Matrix(c.dtype, c.inner, c.hidden, range));
      w.up = c.up.back().w;
      w.up_scale = c.up.back().scales();
    }
    if (random.Coin()) {
      c.down_bias.push_back(random.Values(random.WeightType(), {c.hidden}));
      w.down_bias = c.down_bias.back();
    }
    if (!c.input_major) continue;
    c.transposed.push_back(Transposed(c.gate.back().w));
    w.gate = c.transposed.back();
    c.transposed.push_back(Transposed(c.down.back().w));
    w.down = c.transposed.back();
  }
  c.rows = c.offsets.back();
  const bool bf16_rows = c.compute == Compute::kBF16 && random.Coin();
  c.x = random.Values(bf16_rows ? DType::kBF16 : DType::kF32, {c.rows, c.hidden});
  c.y = Tensor(DType::kF32, {c.rows, c.hidden});
  c.scratch = Tensor(DType::kF32, {c.rows, c.inner});
  return c;
}

// What rounding may do to each of glu's results: from the sums' bounds (with biases, of at most 1)
// and glu's slope, which is at most 1.1 · |up| (+ 1) by gate and |gate| by up.
std::vector<double> InnerBounds(const Experts& c, const std::string& kernels, size_t expert,
                                int64_t row) {
  std::vector<double> bounds;
  const double plus = c.glu.kind == Glu::Kind::kClamped ? 1 : 0;
  for (int64_t f = 0; f < c.inner; ++f) {
    double gate_size = 1;
    double up_size = 1;
    for (int64_t i = 0; i < c.hidden; ++i) {
      const double x = Rounded(c.x.at(row * c.hidden + i), c.compute);
      gate_size += std::abs(x * c.Gate(expert, f, i));
      up_size += std::abs(x * c.Up(expert, f, i));
    }
    const auto bound = [&](double size) {
      return DotBound(c.Terms(c.hidden), size) + ScaledBound(kernels, c.dtype, c.compute, size);
    };
    bounds.push_back(1.1 * bound(gate_size) * (up_size + plus) + bound(up_size) * gate_size +
                     16 * kUnit * gate_size * (up_size + plus));
  }
  return bounds;
}

TEST_P(ExpertsContract, ExpertsAgreeWithTheReference) {
  ForSeeds(70, [&](Random& random) {
    Experts c = MakeExperts(random, GetParam());
    kernels_->ExpertFfn(c.Args(), Any(random));
    const Tensor got = c.y;
    c.y = Tensor(DType::kF32, {c.rows, c.hidden});
    c.scratch = Tensor(DType::kF32, {c.rows, c.inner});
    oracle_->ExpertFfn(c.Args(), {});
    size_t expert = 0;
    for (int64_t r = 0; r < c.rows; ++r) {
      while (r >= c.offsets[expert + 1]) ++expert;
      const std::vector<double> inner = InnerBounds(c, GetParam(), expert, r);
      for (int64_t i = 0; i < c.hidden; ++i) {
        double bound = 0, size = 1, largest = 0;
        for (int64_t f = 0; f < c.inner; ++f) {
          const double w = std::abs(c.down[expert].at(i, f));
          const double product = std::abs(c.scratch.at(r * c.inner + f)) * w;
          bound += inner[static_cast<size_t>(f)] * w;
          size += product;
          largest = std::max(largest, product);
        }
        const double scaled = ScaledBound(GetParam(), c.dtype, c.compute, size);
        bound += DotBound(c.Terms(c.inner), size) + scaled;
        // A product near the middle of two bf16 values may round to either: allow for three of
        // them, or for all where weights are rounded too.
        if (c.compute == Compute::kBF16) bound += scaled > 0 ? size / 128 : 3 * largest / 128;
        ASSERT_NEAR(got.at(r * c.hidden + i), c.y.at(r * c.hidden + i), bound) << r << ", " << i;
      }
    }
  });
}

TEST_P(ExpertsContract, ExpertRowHasTheSameBitsAlone) {
  ForSeeds(40, [&](Random& random) {
    const Experts c = MakeExperts(random, GetParam());
    kernels_->ExpertFfn(c.Args(), Any(random));
    size_t expert = 0;
    const int64_t every = GetParam() == "gpu_hopper_emulated" ? 11 : 1;  // large tiles
    for (int64_t r = 0; r < c.rows; r += every) {
      while (r >= c.offsets[expert + 1]) ++expert;
      const std::vector<int32_t> offsets = {0, 1};
      const Tensor one(DType::kF32, {1, c.hidden});
      const Tensor scratch(DType::kF32, {1, c.inner});
      kernels_->ExpertFfn({.x = c.x.view().Rows(r, 1),
                           .offsets = offsets,
                           .experts = {&c.weights[expert], 1},
                           .y = one,
                           .scratch = scratch,
                           .compute = c.compute,
                           .glu = c.glu,
                           .input_major = c.input_major},
                          Any(random));
      ExpectSameBits(one.f32(), c.y.f32() + r * c.hidden, c.hidden, "row");
    }
  });
}

TEST_P(ExpertsContract, ExpertsHaveTheSameBitsForEverySplitOfTheirRows) {
  ForSeeds(40, [&](Random& random) {
    const Experts c = MakeExperts(random, GetParam());
    kernels_->ExpertFfn(c.Args(), Any(random));
    // The same rows, each expert's in two calls: as when they come from different ranks.
    Experts first = c;
    Experts second = c;
    std::vector<int64_t> order;  // rows of c in the order of first, then of second
    first.offsets = second.offsets = {0};
    std::vector<int64_t> later;
    for (size_t e = 0; e < c.weights.size(); ++e) {
      const int64_t rows = c.offsets[e + 1] - c.offsets[e];
      const int64_t cut = random.Int(0, rows);
      for (int64_t i = 0; i < rows; ++i) {
        (i < cut ? order : later).push_back(c.offsets[e] + i);
      }
      first.offsets.push_back(first.offsets.back() + static_cast<int32_t>(cut));
      second.offsets.push_back(second.offsets.back() + static_cast<int32_t>(rows - cut));
    }
    const auto run = [&](Experts& part, const std::vector<int64_t>& rows) {
      part.rows = static_cast<int64_t>(rows.size());
      part.x = Tensor(c.x.view().dtype(), {part.rows, c.hidden});
      part.y = Tensor(DType::kF32, {part.rows, c.hidden});
      part.scratch = Tensor(DType::kF32, {part.rows, c.inner});
      const size_t bytes = static_cast<size_t>(c.hidden) * SizeOf(c.x.view().dtype());
      for (size_t i = 0; i < rows.size(); ++i) {
        std::memcpy(
            static_cast<std::byte*>(part.x.view().raw()) + i * bytes,
            static_cast<std::byte*>(c.x.view().raw()) + static_cast<size_t>(rows[i]) * bytes,
            bytes);
      }
      kernels_->ExpertFfn(part.Args(), Any(random));
      for (size_t i = 0; i < rows.size(); ++i) {
        ExpectSameBits(part.y.f32() + static_cast<int64_t>(i) * c.hidden,
                       c.y.f32() + rows[i] * c.hidden, c.hidden, "row");
      }
    };
    run(first, order);
    run(second, later);
  });
}

TEST_P(ExpertsContract, ExpertsRunInBatchesWhenTheWorkspaceIsSmall) {
  Random random(11);
  Experts c = MakeExperts(random, GetParam());
  while (c.rows < 60 || c.compute != Compute::kBF16 || c.x.view().dtype() != DType::kF32) {
    c = MakeExperts(random, GetParam());
  }
  kernels_->ExpertFfn(c.Args(), StreamOf(2));
  const Tensor whole = c.y.Clone();
  const KernelLimits small{
      .rows_max = 8, .columns_max = c.hidden, .positions_max = 16, .heads_max = 1};
  TestStream stream(*kernels_, small, 2);
  kernels_->ExpertFfn(c.Args(), stream.get());
  ExpectSameBits(c.y.f32(), whole.f32(), c.rows * c.hidden, "small workspace");
}

TEST_P(MoeContract, CombineAgreesWithTheReference) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.Int(0, 70);
    const int64_t width = random.Int(1, 600);
    const int64_t top_k = random.Int(1, 8);
    const Tensor y = random.Values(DType::kF32, {rows * top_k, width});
    const Tensor weights = random.Values(DType::kF32, {rows, top_k});
    const Tensor out = random.Values(DType::kF32, {rows, width});
    const Tensor got = out.Clone();
    const Tensor want = out.Clone();
    CombineArgs args{.y = y, .weights = weights, .out = got, .accumulate = random.Coin()};
    kernels_->Combine(args, Any(random));
    args.out = want;
    oracle_->Combine(args, {});
    for (int64_t i = 0; i < rows * width; ++i) {
      ASSERT_NEAR(got.at(i), want.at(i), DotBound(4 * top_k, static_cast<double>(top_k) + 1));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Kernels, MoeContract, testing::ValuesIn(ProductKernelSets()), NameOfParam);
INSTANTIATE_TEST_SUITE_P(Kernels, ExpertsContract, testing::ValuesIn(ProductKernelSetsAndHopper()),
                         NameOfParam);

}  // namespace
}  // namespace choir
