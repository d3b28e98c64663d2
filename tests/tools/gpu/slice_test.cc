// The slice of layers on an emulated card, and how its times become those of a whole model.
#include "tools/gpu/slice.h"

#include <gmock/gmock.h>

#include "kernels/cuda/table_kernels.h"
#include "tests/tools/gpu/small_card.h"
#include "tools/gpu/measured_kernels.h"
#include "worker/device/measuring_device.h"

namespace choir::gpu {
namespace {

using testing::HasSubstr;

constexpr Limits kLimits{.copy_gbs = 10, .bf16_tflops = 1, .f8_tflops = 2};

TEST(GpuSlice, ItsStepsHaveTimesFloorsAndAProjection) {
  SliceOptions options = SliceOptions::Small();
  std::vector<size_t> steps;
  options.progress = [&](const auto& so_far) { steps.push_back(so_far["steps"].size()); };
  const int apart = emulation::GraphsApart();
  const auto told = RunSlice(UsedDevice(), *EmulatedTables().back(), kLimits, options);
  EXPECT_EQ(emulation::GraphsApart() - apart, 2) << "one of each batch";
  EXPECT_TRUE(emulation::EarlyStartsAllowed());
  EXPECT_THAT(steps, testing::ElementsAre(1, 1, 2, 2, 3, 3, 4, 4, 4));
  EXPECT_TRUE(told["failures"].empty()) << told["failures"].dump();
  EXPECT_EQ(told["batches"], nlohmann::ordered_json({3, 1}));
  ASSERT_EQ(told["steps"].size(), 4u);  // two batches, two prefills
  for (const auto& step : told["steps"]) {
    SCOPED_TRACE(step.dump());
    EXPECT_GT(step["ms"], 0.0);
    EXPECT_GT(step["plain_ms"], 0.0);
    EXPECT_EQ(step.value("graph_replays", 0), step["kind"] == "decode" ? 3 : 0);
    EXPECT_EQ(step.contains("apart_ms"), step["kind"] == "decode");
    EXPECT_GT(step["floor_ms"], 0.0);
    EXPECT_NEAR(step["step_ratio"].get<double>(),
                step["ms"].get<double>() / step["floor_ms"].get<double>(), 1e-9);
    for (const char* op : {"linear", "linear (head)", "mla_attention", "expert_ffn", "gate_top_k",
                           "permute", "unpermute", "rms_norm", "sample"}) {
      EXPECT_GT(step["ops_floor_ms"][op], 0.0) << op;
      EXPECT_GT(step["ops_ms"][op], 0.0) << op;
    }
  }
  ASSERT_EQ(told["projection"].size(), 2u);
  EXPECT_GT(told["projection"][0]["tokens_per_s_per_gpu"], 0.0);
  EXPECT_THAT(told["projection"][0]["text"].get<std::string>(),
              HasSubstr("Not in it: rows between"));
}

TEST(GpuSlice, TakesNoStepWithEarlyStartsWhereThereAreToBeNone) {
  SliceOptions options = SliceOptions::Small();
  options.early_starts = false;
  options.batches = {1};
  options.prefills = {};
  UsedDevice().allow_early_starts(false);
  const auto told = RunSlice(UsedDevice(), *EmulatedTables().back(), kLimits, options);
  EXPECT_FALSE(emulation::EarlyStartsAllowed());
  UsedDevice().allow_early_starts(true);
  ASSERT_EQ(told["steps"].size(), 1u);
  EXPECT_FALSE(told["steps"][0].contains("apart_ms"));
}

TEST(GpuSlice, NamesWhatItHasNoTimeFor) {
  SliceOptions options = SliceOptions::Small();
  options.deadline = MonoTime::min();
  const auto told = RunSlice(UsedDevice(), *EmulatedTables().back(), kLimits, options);
  EXPECT_TRUE(told["steps"].empty());
  EXPECT_EQ(told["lines"].size(), 3u);  // two batches; prefill ends with the first
}

TEST(GpuSlice, HasDeepSeekV3sShape) {
  const auto config = SliceConfig({});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden, 7168);
  EXPECT_EQ(config->layers, 8);
  EXPECT_EQ(config->NumMoeLayers(), 7);
  EXPECT_EQ(config->moe->experts, 32);
  EXPECT_EQ(config->moe->top_k, 8);
  EXPECT_EQ(config->mla->heads, 128);
  EXPECT_EQ(config->vocab, 129280);
}

TEST(GpuSlice, FitsACardOf139GiB) {
  const auto config = SliceConfig({});
  ASSERT_TRUE(config.ok()) << config.status();
  MeasuringDevice device;
  const auto kernels = MakeTableKernels(emulation::EmulatedTable());
  std::vector<Piece> pieces;
  const auto weights = SliceWeights(*config, &device, &pieces);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const double weights_gib = static_cast<double>(device.bytes()) / (1 << 30);
  EXPECT_GT(weights_gib, 13) << "experts, attention, embedding and head";
  SliceLimits decode;
  decode.rows_max = decode.sequences_max;
  for (const auto& [layers, limits] : {std::pair(8, SliceLimits()), std::pair(8, decode),
                                       std::pair(2, decode), std::pair(8, decode)}) {
    const auto runner =
        SliceRunner::Make(SliceOf(*config, *weights, layers, &device), kernels.get(), limits);
    ASSERT_TRUE(runner.ok()) << runner.status();
  }
  EXPECT_LT(static_cast<double>(device.bytes()) / (1 << 30), 60);
}

TEST(GpuSlice, AStepOfTheModelIsItsLayersAndWhatIsOutside) {
  // 1 outside + a dense layer of 2 + seven of 3 each.
  const ProjectedStep step =
      Project({.layers = 8, .all_ms = 24, .two_ms = 6, .outside_ms = 1}, 61, 3);
  EXPECT_DOUBLE_EQ(step.expert_layer_ms, 3);
  EXPECT_DOUBLE_EQ(step.dense_layer_ms, 2);
  EXPECT_DOUBLE_EQ(step.step_ms, 1 + 3 * 2 + 58 * 3);
}

TEST(GpuMeasuredKernels, AddUpWhatTheyForward) {
  SmallCard card;
  const auto inner = MakeTableKernels(emulation::EmulatedTable());
  MeasuredKernels kernels(inner.get(), &emulation::EmulatedDevices(), kLimits);
  kernels.set_vocab(7);
  const TensorView x = card.card.Make(DType::kF32, {2, 32});
  const Stream stream{.workspace = card.card.kernel_stream().workspace,
                      .native = card.card.stream()};
  const auto linear = [&](int64_t outputs) {
    kernels.Linear({.x = x,
                    .w = card.card.Make(DType::kF32, {outputs, 32}),
                    .y = card.card.Make(DType::kF32, {2, outputs})},
                   stream);
  };
  kernels.Begin(true);
  linear(5);
  linear(5);
  linear(7);
  card.card.Wait();
  const auto sums = kernels.ByOp();
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums.at("linear").count, 2);
  EXPECT_EQ(sums.at("linear").flops, 2 * 2 * 2 * 5 * 32);
  EXPECT_GT(sums.at("linear (head)").us, 0);
  kernels.Begin(false);
  EXPECT_TRUE(kernels.ByOp().empty());
}

}  // namespace
}  // namespace choir::gpu
