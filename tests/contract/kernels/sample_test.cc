// The GPU's sampler takes the very token that the CPU's takes.
#include <limits>

#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_stream.h"
#include "worker/engine/sampler.h"

namespace choir {
namespace {

using emulation::Order;

class SampleContract : public testing::TestWithParam<std::string> {
 protected:
  std::vector<int32_t> OnGpu(const Tensor& logits, const std::vector<SampleRow>& rows,
                             Order order = Order::kForward) {
    const Tensor ids(DType::kI32, {logits.view().dim(0)});
    GpuTable(GetParam())
        .sample({.logits = logits, .rows = rows, .ids = ids},
                {.native = emulation::StreamInOrder(order), .workspace = {memory_.get(), 1 << 16}});
    const int32_t* got = ids.view().data<int32_t>();
    return {got, got + logits.view().dim(0)};
  }
  static int32_t OnCpu(const Tensor& logits, int64_t row, const SampleRow& r) {
    const auto vocab = logits.view().dim(1);
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
  void ExpectTheCpus(const Tensor& logits, const std::vector<SampleRow>& rows) {
    const std::vector<int32_t> got = OnGpu(logits, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(got[i], OnCpu(logits, static_cast<int64_t>(i), rows[i])) << "row " << i;
    }
  }

  std::shared_ptr<std::byte> memory_ = TestBytes(1 << 16);
};

std::vector<std::string> SimpleTables() {
  std::vector<std::string> names = GpuTableNames();
  std::erase_if(names, OnTensorCores);
  return names;
}

SampleRow AnyRow(Random& random) {
  constexpr double kTemperatures[] = {0.0, 0.3, 1.0, 2.0, 1e-9};
  constexpr double kTopP[] = {1.0, 0.95, 0.5, 0.0};
  return {.temperature = kTemperatures[random.Int(0, 4)],
          .top_p = kTopP[random.Int(0, 3)],
          .min_p = random.Coin() ? 0.0 : 0.05,
          .seed = static_cast<uint64_t>(random.Int(0, std::numeric_limits<int64_t>::max())),
          .position = static_cast<uint64_t>(random.Int(0, int64_t{1} << 40)),
          .choice = static_cast<uint32_t>(random.Int(0, 7)),
          .top_k = static_cast<int32_t>(random.Coin() ? 0 : random.Int(1, 60))};
}

TEST_P(SampleContract, TakesTheTokenOfTheCpuWhateverTheParameters) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const int64_t rows = random.Int(1, 6);
    Tensor logits = random.Values(DType::kF32, {rows, random.Int(1, 700)}, 8.0f);
    if (random.Coin()) {  // many ties, -0 among them
      for (int64_t i = 0; i < logits.view().num_elements(); ++i) {
        logits.f32()[i] = std::round(logits.f32()[i] / 4) * 4;
      }
    }
    std::vector<SampleRow> params;
    for (int64_t i = 0; i < rows; ++i) params.push_back(AnyRow(random));
    ExpectTheCpus(logits, params);
  }
}

TEST_P(SampleContract, TakesTheTokenOfTheCpuAmongInfinitiesAndNotANumbers) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float values[][5] = {{kNan, 1, 2, kNan, 1},
                             {kNan, kNan, kNan, kNan, kNan},
                             {-kInf, -kInf, -kInf, -kInf, -kInf},
                             {0, kInf, 3, kInf, 0},
                             {-kInf, -3, kNan, -3, -kInf}};
  const Tensor logits(DType::kF32, {5, 5});
  std::memcpy(logits.f32(), values, sizeof values);
  for (const double top_p : {1.0, 0.7}) {
    for (const int32_t top_k : {0, 2}) {
      ExpectTheCpus(logits,
                    std::vector<SampleRow>(
                        5, {.temperature = 0.8, .top_p = top_p, .seed = 5, .top_k = top_k}));
      ExpectTheCpus(logits, std::vector<SampleRow>(5, {.temperature = 0.0, .top_k = top_k}));
    }
  }
}

TEST_P(SampleContract, ARowsTokenDependsOnNothingElse) {
  Random random(3);
  const Tensor logits = random.Values(DType::kF32, {5, 500}, 5.0f);
  std::vector<SampleRow> rows;
  for (int i = 0; i < 5; ++i) rows.push_back(AnyRow(random));
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

INSTANTIATE_TEST_SUITE_P(Tables, SampleContract, testing::ValuesIn(SimpleTables()), NameOfParam);

}  // namespace
}  // namespace choir
