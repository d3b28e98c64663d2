#include "worker/model/weights/device_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "tests/support/gpu_emulation/emulated_device.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

// Of two layers; the head is the embedding, which is larger than what is copied at a time.
struct Model {
  Model() : embedding(5'000'000), small(1000) {
    std::iota(embedding.begin(), embedding.end(), 0.0f);
    std::iota(small.begin(), small.end(), -500.0f);
    weights.embedding = weights.head = TensorView(embedding.data(), DType::kF32, {50'000, 100});
    weights.final_norm = TensorView(small.data(), DType::kF32, {100});
    weights.layers.resize(2);
    MoeWeights& moe = weights.layers[1].moe.emplace();
    moe.router = TensorView(small.data() + 100, DType::kF32, {2, 100});
    moe.experts.resize(2);
    for (size_t e = 0; e < 2; ++e) {
      moe.experts[e].gate = TensorView(small.data() + 300 + 100 * e, DType::kF32, {10, 10});
    }
  }
  std::vector<float> embedding, small;
  ModelWeights weights;
};

std::vector<float> OnHost(Device* device, const TensorView& t) {
  auto host = device->AllocateHost(t.num_bytes());
  device->Copy(host->data(), t.raw(), t.num_bytes());
  EXPECT_TRUE(device->Wait().ok());
  const auto* begin = reinterpret_cast<const float*>(host->data());
  return {begin, begin + t.num_elements()};
}

TEST(DeviceWeights, AreTheSameBytesInTheMemoryTheyWereSaidToTake) {
  Model model;
  ForgetOtherExperts({1, 2}, {}, &model.weights);
  EXPECT_TRUE(model.weights.layers[1].moe->experts[0].gate.empty());
  const auto device = std::move(MakeTableDevice(emulation::EmulatedDevices(), 0)).value();
  ASSERT_TRUE(device->Reserve(DeviceBytesOf(model.weights)).ok());
  const TensorView gate = model.weights.layers[1].moe->experts[1].gate;
  std::pair<int64_t, int64_t> progress;
  const auto memory =
      LoadOnDevice(device.get(), nullptr, &model.weights, [&](int64_t done, int64_t total) {
        EXPECT_GT(done, progress.first);
        progress = {done, total};
      });
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_FALSE(device->Allocate(1).ok());
  EXPECT_EQ(progress.first, progress.second);
  EXPECT_EQ(progress.first, 4 * (5'000'000 + 100 + 200 + 100));
  const ModelWeights& w = model.weights;
  EXPECT_EQ(w.embedding.raw(), w.head.raw()) << "once";
  EXPECT_EQ(OnHost(device.get(), w.embedding), model.embedding);
  EXPECT_EQ(OnHost(device.get(), w.final_norm),
            std::vector<float>(model.small.begin(), model.small.begin() + 100));
  EXPECT_EQ(OnHost(device.get(), w.layers[1].moe->experts[1].gate),
            std::vector<float>(gate.f32(), gate.f32() + 100));
  EXPECT_TRUE(w.layers[1].moe->experts[0].gate.empty());
  EXPECT_EQ(w.layers[1].moe->router.dim(0), 2);
}

TEST(DeviceWeights, AFailingCardIsSaid) {
  Model model;
  const auto device = std::move(MakeTableDevice(emulation::EmulatedDevices(), 0)).value();
  ASSERT_TRUE(device->Reserve(DeviceBytesOf(model.weights)).ok());
  emulation::FailCard(0, "an illegal memory access was encountered");
  EXPECT_EQ(LoadOnDevice(device.get(), nullptr, &model.weights, {}).status().code(),
            absl::StatusCode::kUnavailable);
  emulation::FailCard(0, nullptr);
}

}  // namespace
}  // namespace choir
