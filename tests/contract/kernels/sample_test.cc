// The GPU's sampler takes the very token that the CPU's takes.
#include <algorithm>
#include <limits>

#include "common/base/philox.h"
#include "kernels/cuda/tensor/softmax_bounds.cuh"
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/support/gpu_emulation/emulated_stream.h"
#include "worker/engine/exact_math.h"
#include "worker/engine/sampler.h"

namespace choir {
namespace {

using emulation::Order;

class SampleContract : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { emulation::SetEmulatedCard(emulation::kEmulatedCard); }

  std::vector<int32_t> OnGpu(const TensorView& logits, const std::vector<SampleRow>& rows,
                             Order order = Order::kForward) {
    const Tensor ids(DType::kI32, {logits.dim(0)});
    GpuTable(GetParam())
        .sample({.logits = logits, .rows = rows, .ids = ids},
                {.native = emulation::StreamInOrder(order), .workspace = {memory_.get(), 1 << 16}});
    const int32_t* got = ids.view().data<int32_t>();
    return {got, got + logits.dim(0)};
  }
  static int32_t OnCpu(const TensorView& logits, int64_t row, const SampleRow& r) {
    const auto vocab = logits.dim(1);
    Sampler sampler(vocab);
    const SamplingParams params{.temperature = r.temperature,
                                .top_p = r.top_p,
                                .top_k = r.top_k,
                                .min_p = r.min_p,
                                .seed = r.seed,
                                .choice = r.choice};
    return sampler
        .Sample({logits.f32() + row * vocab, static_cast<size_t>(vocab)}, params, nullptr,
                r.position)
        .id;
  }
  void ExpectTheCpus(const TensorView& logits, const std::vector<SampleRow>& rows,
                     Order order = Order::kForward) {
    const std::vector<int32_t> got = OnGpu(logits, rows, order);
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleRow& r = rows[i];
      EXPECT_EQ(got[i], OnCpu(logits, static_cast<int64_t>(i), r))
          << "row " << i << " of " << logits.dim(1) << ": temperature " << r.temperature
          << ", top_k " << r.top_k << ", top_p " << r.top_p << ", min_p " << r.min_p;
    }
  }
  // The same for every row.
  void ExpectTheCpus(const TensorView& logits, const SampleRow& row) {
    ExpectTheCpus(logits, std::vector<SampleRow>(static_cast<size_t>(logits.dim(0)), row));
  }

  std::shared_ptr<std::byte> memory_ = TestBytes(1 << 16);
};

// Draws that fall on the last token that is kept, or on the first: where a token too many or too
// few shows.
struct Extremes {
  uint64_t first = 0, last = 0;  // positions, of seed 0 and choice 0
};

Extremes FindExtremes() {
  Extremes found;
  double least = 1.0, most = 0.0;
  for (uint64_t position = 0; position < 1 << 20; ++position) {
    const double uniform = UniformFor(0, 0, position);
    if (uniform < least) found.first = position;
    if (uniform > most) found.last = position;
    least = std::min(least, uniform);
    most = std::max(most, uniform);
  }
  return found;
}

SampleRow AnyRow(Random& random, int64_t vocab) {
  static const Extremes extremes = FindExtremes();
  constexpr double kTemperatures[] = {0.0, 0.3, 0.6, 1.0, 1.0, 2.0, 1e-9, 1e-300, 1e25};
  constexpr double kTopP[] = {1.0, 1.0, 0.95, 0.95, 0.5, 0.0, 1e-12, 0.999999};
  constexpr double kMinP[] = {0.0, 0.0, 0.05, 1e-9, 1.0};
  const int64_t top_k[] = {0, 0, 1, random.Int(1, 60), random.Int(1, vocab), vocab - 1, vocab, -1};
  SampleRow row{.temperature = kTemperatures[random.Int(0, 8)],
                .top_p = kTopP[random.Int(0, 7)],
                .min_p = kMinP[random.Int(0, 4)],
                .top_k = static_cast<int32_t>(top_k[random.Int(0, 7)])};
  const int64_t draw = random.Int(0, 3);
  if (draw < 2) {
    row.position = draw == 0 ? extremes.first : extremes.last;
    return row;
  }
  row.seed = static_cast<uint64_t>(random.Int(0, std::numeric_limits<int64_t>::max()));
  row.position = static_cast<uint64_t>(random.Int(0, int64_t{1} << 40));
  row.choice = static_cast<uint32_t>(random.Int(0, 7));
  return row;
}

float Bell(Random& random) {
  return random.Float(1.7f) + random.Float(1.7f) + random.Float(1.7f);  // deviates by 1.7
}

float AnyLogit(Random& random, int64_t kind) {
  switch (kind) {
    case 0:
      return random.Float(8.0f);
    case 1:  // many ties, -0 among them
      return std::round(random.Float(2.0f)) * 4;
    case 2:
      return -0.7f;
    case 3:  // a few stand out
      return Bell(random) + (random.Int(0, 99) == 0 ? random.Float(9.0f) + 9 : 0);
    case 4:  // weights of 0, 1, 2 and a few more
      return random.Int(0, 999) == 0 ? 0.0f : random.Float(2.5f) - 30.0f;
    case 5:  // few digits are left to tell them apart
      return Bell(random) + 3e4f;
    case 6:
      return Bell(random) + 3e6f;
    default:
      constexpr float kOdd[] = {-std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN(), 1e-42f, -1e-42f, -3e38f};
      return random.Int(0, 3) == 0 ? Bell(random) : kOdd[random.Int(0, 4)];
  }
}

// Of any kind. Often in descending order, so that what is kept is in front.
void FillLogits(Random& random, float* row, int64_t vocab) {
  const int64_t kind = random.Int(0, 7);
  for (int64_t i = 0; i < vocab; ++i) row[i] = AnyLogit(random, kind);
  if (random.Coin()) {
    std::sort(row, row + vocab, [](float a, float b) { return a > b || (a == a && b != b); });
  }
}

TEST_P(SampleContract, TakesTheTokenOfTheCpuWhateverTheParameters) {
  constexpr int64_t kSizes[] = {1, 2, 5, 127, 129, 700, 1023, 1024, 1025, 4099};
  for (uint32_t seed = 1; seed <= GpuSeeds(60); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    // Room for all candidates, for some 250 of them, or for so few that the simple kernel has to
    // do.
    constexpr int64_t kShared[] = {227, 227, 11, 11, 11, 9};
    emulation::SetEmulatedCard({4, kShared[random.Int(0, 5)] * 1024});
    const int64_t rows = random.Int(1, 6), vocab = kSizes[random.Int(0, 9)];
    const int64_t skew = random.Int(0, 3);
    const Tensor memory(DType::kF32, {rows * vocab + skew});
    const TensorView logits(memory.f32() + skew, DType::kF32, {rows, vocab});
    std::vector<SampleRow> params;
    for (int64_t i = 0; i < rows; ++i) {
      FillLogits(random, logits.f32() + i * vocab, vocab);
      params.push_back(AnyRow(random, vocab));
    }
    ExpectTheCpus(logits, params, static_cast<Order>(random.Int(0, 2)));
  }
}

// Rows as of language models, and flat ones; more ids than the draw has runs for in one step each.
TEST_P(SampleContract, TakesTheTokenOfTheCpuFromLargeVocabularies) {
  const SampleRow cases[] = {{.temperature = 0.6, .top_p = 0.95},
                             {.temperature = 1.0, .top_p = 0.95},
                             {.temperature = 0.7, .top_p = 0.95, .top_k = 50},
                             {.temperature = 1.0},
                             {.temperature = 1.0, .min_p = 0.02},
                             {.temperature = 2.0, .top_p = 0.9, .top_k = 15000}};
  Random random(4);
  for (const int64_t vocab : {20000, 129280, 163843}) {
    const Tensor logits(DType::kF32, {std::ssize(cases), vocab});
    std::vector<SampleRow> rows(std::begin(cases), std::end(cases));
    for (size_t i = 0; i < rows.size(); ++i) {
      float* row = logits.f32() + static_cast<int64_t>(i) * vocab;
      for (int64_t v = 0; v < vocab; ++v) row[v] = AnyLogit(random, vocab == 20000 ? 0 : 3);
      rows[i].seed = static_cast<uint64_t>(random.Int(0, 1 << 30));
      // Frequent tokens are neighbours in many vocabularies.
      if (vocab == 20000) std::sort(row, row + vocab / 2, std::greater<>());
    }
    ExpectTheCpus(logits, rows);
  }
}

// The sum is at the nucleus's edge as exactly as can be: bounds of what is not listed do not tell.
TEST_P(SampleContract, TakesTheTokenOfTheCpuWhereTheNucleusEndsBetweenEqualTokens) {
  const Extremes extremes = FindExtremes();
  constexpr int64_t kVocab = 3000, kEqual = 90;
  emulation::SetEmulatedCard({4, 18 * 1024});  // room for a third of them
  for (const float light : {-12.0f, -31.0f}) {
    const Tensor logits(DType::kF32, {6, kVocab});
    const auto total = static_cast<double>(
        kEqual * (uint64_t{1} << 44) + (kVocab - kEqual) * ExactWeight(static_cast<double>(light)));
    std::vector<SampleRow> rows;
    for (int64_t i = 0; i < 6; ++i) {
      float* row = logits.f32() + i * kVocab;
      for (int64_t v = 0; v < kVocab; ++v) row[v] = v % 5 == 0 && v < 5 * kEqual ? 0.0f : light;
      const int64_t kept = 7 + 9 * i;
      const double top_p = static_cast<double>(kept << 44) / total;
      const double off = 1e-13 * static_cast<double>(i % 3 - 1);  // some 150 units
      rows.push_back({.top_p = top_p + off, .position = extremes.last});
    }
    ExpectTheCpus(logits, rows);
  }
}

// More candidates than there is room for, so that thresholds are found in the row itself.
TEST_P(SampleContract, TakesTheTokenOfTheCpuFromFlatRows) {
  const Extremes extremes = FindExtremes();
  constexpr int64_t kVocab = 1500;
  std::vector<SampleRow> rows;
  for (const double temperature : {0.05, 2.0, 1e25}) {
    for (const double top_p : {1.0, 0.95, 0.03}) {
      for (const double min_p : {0.0, 0.02}) {
        for (const int32_t top_k : {0, 1400}) {
          rows.push_back({.temperature = temperature,
                          .top_p = top_p,
                          .min_p = min_p,
                          .position = extremes.last,
                          .top_k = top_k});
        }
      }
    }
  }
  emulation::SetEmulatedCard({4, 11 * 1024});
  Random random(7);
  for (int kind = 0; kind < 4; ++kind) {
    const Tensor logits = random.Values(DType::kF32, {std::ssize(rows), kVocab}, 8.0f);
    for (int64_t i = 0; i < logits.view().num_elements(); ++i) {
      float& v = logits.f32()[i];
      if (kind == 1) v = std::copysign(8.0f, v);
      if (kind == 2) v = std::copysign(0.0f, v);
    }
    for (int64_t i = 0; kind == 3 && i < std::ssize(rows); ++i) {
      std::sort(logits.f32() + i * kVocab, logits.f32() + (i + 1) * kVocab, std::greater<>());
    }
    ExpectTheCpus(logits, rows);
  }
}

TEST_P(SampleContract, TakesTheLowestOfTheBestIds) {
  constexpr int64_t kVocab = 9001;
  const Tensor logits(DType::kF32, {4, kVocab});
  logits.f32()[1 * kVocab + 8191] = logits.f32()[1 * kVocab + 4095] = 1.0f;
  logits.f32()[2 * kVocab + 9000] = logits.f32()[2 * kVocab + 8999] = 1.0f;
  std::fill_n(logits.f32() + 3 * kVocab, 2, -0.0f);
  EXPECT_EQ(OnGpu(logits, std::vector<SampleRow>(4, {.temperature = 0.0})),
            std::vector<int32_t>({0, 4095, 8999, 0}));
}

TEST_P(SampleContract, TakesTheTokenOfTheCpuAmongInfinitiesAndNotANumbers) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float values[][5] = {{kNan, 1, 2, kNan, 1},          {kNan, -kInf, kNan, -kInf, -kInf},
                             {kNan, kNan, kNan, kNan, kNan}, {-kInf, -kInf, -kInf, -kInf, -kInf},
                             {0, kInf, 3, kInf, 0},          {-kInf, -3, kNan, -3, -kInf}};
  const Tensor logits(DType::kF32, {6, 5});
  std::memcpy(logits.f32(), values, sizeof values);
  for (const double top_p : {1.0, 0.7}) {
    for (const int32_t top_k : {0, 2}) {
      ExpectTheCpus(logits,
                    std::vector<SampleRow>(
                        6, {.temperature = 0.8, .top_p = top_p, .seed = 5, .top_k = top_k}));
      ExpectTheCpus(logits, std::vector<SampleRow>(6, {.temperature = 0.0, .top_k = top_k}));
    }
  }
}

TEST_P(SampleContract, ARowsTokenDependsOnNothingElse) {
  Random random(3);
  const Tensor logits = random.Values(DType::kF32, {5, 500}, 5.0f);
  std::vector<SampleRow> rows;
  for (int i = 0; i < 5; ++i) rows.push_back(AnyRow(random, 500));
  const std::vector<int32_t> whole = OnGpu(logits, rows);
  for (const Order order : {Order::kBackward, Order::kShuffled}) {
    EXPECT_EQ(OnGpu(logits, rows, order), whole);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const Tensor one(DType::kF32, {1, 500});
    std::memcpy(one.f32(), logits.f32() + i * 500, 2000);
    EXPECT_EQ(OnGpu(one, {rows[i]}).front(), whole[i]);
  }
}

// What the fast kernel's bounds rest on.
TEST(SoftmaxBounds, WeightsAndQuickWeightsAreNearWhatTheyStandFor) {
  for (int64_t i = 0; i <= 1 << 20; ++i) {
    const double x = -36.0 * static_cast<double>(i) / (1 << 20);
    const double wanted = std::exp(x) * kWeightOne;
    ASSERT_NEAR(static_cast<double>(ExactWeight(x)), wanted, std::max(0.6, wanted * 0.01)) << x;
  }
  Random random(5);
  for (const float max : {0.0f, 25.3f, -7.1f, 40000.0f, -40000.0f}) {
    for (const double temperature : {0.3, 0.6, 1.0, 1.7}) {
      const cuda::ExactSoftmax softmax{max, temperature, 1.0 / temperature};
      const cuda::QuickWeight quick = cuda::QuickWeightOf(softmax);
      ASSERT_EQ(quick.usable, std::fabs(max) / temperature * kLog2E < 65536);
      if (!quick.usable) continue;
      for (int i = 0; i < 20000; ++i) {
        const float v = max + 16.0f * static_cast<float>(temperature) * (random.Float(1) - 1);
        const double x = (static_cast<double>(v) - max) * softmax.scale;
        if (x < -31.3 || x > 0) continue;
        const double wanted = std::exp(x) * kWeightOne;
        ASSERT_NEAR(quick.factor * static_cast<double>(quick.Of(v)), wanted, wanted * 0x1p-22)
            << v << " below " << max << " at " << temperature;
      }
    }
  }
}

TEST(SoftmaxBounds, NoValueBeyondThemWeighsAsMuch) {
  Random random(6);
  for (int i = 0; i < 100000; ++i) {
    constexpr double kTemperatures[] = {0.5, 1.0, 1e-300, 1e-44, 1e30};
    constexpr float kScales[] = {1.0f, 1e-44f, 1e5f, 1e38f};
    const double temperature = kTemperatures[random.Int(0, 4)];
    const float max = random.Float(3.0f) * kScales[random.Int(0, 3)];
    const cuda::ExactSoftmax softmax{max, temperature, 1.0 / temperature};
    const double below = 33.0 * static_cast<double>(random.Float(0.5f) + 0.5f) * temperature;
    const float v = std::max(-3e38f, static_cast<float>(std::max(-3e38, max - below)));
    const uint64_t weight = softmax.WeightOf(v);
    if (v > max) continue;
    const float above = std::min(max, std::nextafter(v, cuda::kInfinity));
    ASSERT_GE(softmax.MostWeightBelow(above), weight);
    if (weight == 0) continue;
    ASSERT_LE(softmax.LeastValueOf(weight), v);
    ASSERT_GE(softmax.MostValueOf(weight), v);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, SampleContract, testing::ValuesIn(GpuTableNames()), NameOfParam);

}  // namespace
}  // namespace choir
