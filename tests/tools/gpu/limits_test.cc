// Limits and times beside them, on an emulated card and with a cuBLASLt that computes nothing.
#include "tools/gpu/limits.h"

#include <gmock/gmock.h>

#include "tests/tools/gpu/small_card.h"
#include "tools/gpu/op_times.h"
#include "tools/gpu/tables.h"

namespace choir::gpu {
namespace {

const LimitShapes kSmallLimits{.copy_bytes = 4096, .sides = {16}, .products = {}};

int plans = 0;

// Two ways for each shape, of which the first is refused when it runs; none for blocks of scales.
cuda::CublasLtTable FakeCublasLt() {
  cuda::CublasLtTable t;
  t.open = [](int32_t* version) -> const char* {
    *version = 130100;
    return nullptr;
  };
  t.make = [](const cuda::DenseShape& shape, const cuda::DenseOperands& operands, void** plan,
              int32_t* choices) -> const char* {
    if (shape.format == cuda::DenseFormat::kF8Blocks) return "not supported";
    EXPECT_NE(operands.x, nullptr);
    EXPECT_NE(operands.workspace, nullptr);
    *plan = new int(++plans);
    *choices = 2;
    return nullptr;
  };
  t.run = [](void*, int32_t choice, void*) -> const char* {
    return choice == 0 ? "not initialized" : nullptr;
  };
  t.free = [](void* plan) {
    --plans;
    delete static_cast<int*>(plan);
  };
  return t;
}

TEST(GpuLimits, AreThoseOfTheWaysThatRun) {
  SmallCard card;
  std::vector<size_t> told;
  const auto limits = MeasureLimits(
      FakeCublasLt(), card.card, kSmallLimits,
      [&](const auto& so_far) { told.push_back(so_far.value("dense", so_far).size()); });
  EXPECT_EQ(told, (std::vector<size_t>{1, 1, 2})) << "the copy's rate, then each product";
  EXPECT_EQ(plans, 0) << "each is given back";
  EXPECT_GT(limits["copy_gb_per_s"], 0.0);
  EXPECT_GT(limits["bf16_tflops"], 0.0);
  EXPECT_GT(limits["f8_tflops"], 0.0);
  EXPECT_EQ(limits["f8_blocks_tflops"], 0.0);
  EXPECT_EQ(limits["dense"].size(), 2u);
  EXPECT_EQ(LimitsOf(limits).tflops(Math::kF8), limits["f8_tflops"].get<double>());
}

TEST(GpuLimits, WithoutCublasLtTheReasonStandsInTheirPlace) {
  SmallCard card;
  cuda::CublasLtTable absent = FakeCublasLt();
  absent.open = [](int32_t*) -> const char* { return "libcublasLt.so.13 cannot be opened"; };
  const auto limits = MeasureLimits(absent, card.card, kSmallLimits);
  EXPECT_EQ(limits["missing"], "libcublasLt.so.13 cannot be opened");
  EXPECT_EQ(LimitsOf(limits).bf16_tflops, 0.0);
  EXPECT_GT(LimitsOf(limits).copy_gbs, 0.0);
}

TEST(GpuFloor, IsTheLongerOfMovingAndMultiplying) {
  const Limits limits{.copy_gbs = 4000, .bf16_tflops = 800, .f8_tflops = 1600};
  const Floor moves = FloorOf({.bytes = 4'000'000, .flops = 8'000'000}, limits);
  EXPECT_DOUBLE_EQ(moves.us, 1.0);
  EXPECT_TRUE(moves.by_copy);
  const Work product{.bytes = 4'000'000, .flops = 1'600'000'000};
  EXPECT_DOUBLE_EQ(FloorOf(product, limits).us, 2.0);
  EXPECT_FALSE(FloorOf(product, limits).by_copy);
  EXPECT_DOUBLE_EQ(FloorOf({product.bytes, product.flops, Math::kF8}, limits).us, 1.0);
  // Without cuBLASLt nothing is bound by products.
  EXPECT_DOUBLE_EQ(FloorOf(product, {.copy_gbs = 4000}).us, 1.0);
}

constexpr Limits kLimits{.copy_gbs = 10, .bf16_tflops = 1, .f8_tflops = 2};

TEST(GpuOpTimes, StandBesideTheLimitsForEveryTableWithItsOwnFunction) {
  SmallCard card;
  const auto rows = TimeOps(EmulatedTables(), FakeCublasLt(), card.card,
                            {.shapes = SmallShapes(), .limits = kLimits});
  int grouped = 0, quantized = 0, beside = 0;
  for (const auto& row : rows) {
    SCOPED_TRACE(row.dump());
    grouped += row["op"] == "grouped_gemm";
    quantized += row["op"] == "quantize_f8";
    beside += row.contains("cublaslt_us");
    ASSERT_FALSE(row.contains("left_out"));
    EXPECT_GT(row["us"], 0.0);
    EXPECT_GT(row["floor_us"], 0.0);
    EXPECT_NEAR(row["floor_percent"].get<double>(),
                100 * row["floor_us"].get<double>() / row["us"].get<double>(), 1e-6);
    EXPECT_TRUE(row["bound"] == "copy" || row["bound"] == "gemm");
  }
  EXPECT_EQ(grouped, 2 * 7);  // both tables
  EXPECT_EQ(quantized, 3);    // the second has the first one's
  EXPECT_GT(beside, 20);
}

TEST(GpuOpTimes, AreThereWithoutLimits) {
  SmallCard card;
  const auto rows = TimeOps(EmulatedTables(), {}, card.card, {.shapes = SmallShapes()});
  EXPECT_GT(rows[0]["us"], 0.0);
  EXPECT_FALSE(rows[0].contains("floor_us"));
}

TEST(GpuTables, EndWithTheRungThatIsAskedFor) {
  cuda::Module module;
  module.hopper.name = "cuda-hopper9";
  const auto all = TablesOf(module, {.major = 9, .minor = 0});
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(TablesUpTo(all, module, "").size(), 3u);
  EXPECT_EQ(TablesUpTo(all, module, "hopper").size(), 3u);
  EXPECT_EQ(TablesUpTo(all, module, "tensor").back(), &module.tensor);
  EXPECT_EQ(TablesUpTo(all, module, "simple").back(), &module.simple);
  EXPECT_TRUE(TablesUpTo(TablesOf(module, {.major = 8}), module, "hopper").empty());
}

TEST(GpuOpTimes, NameWhatTheyLeaveOut) {
  SmallCard card;
  const OpTimesOptions late{
      .shapes = SmallShapes(), .limits = kLimits, .deadline = MonoTime::min()};
  for (const auto& row : TimeOps(EmulatedTables(), {}, card.card, late)) {
    EXPECT_EQ(row["left_out"], "no time left");
  }
  const OpTimesOptions quick{.shapes = SmallShapes(), .limits = kLimits, .simple_flops_max = 10};
  for (const auto& row : TimeOps(EmulatedTables(), {}, card.card, quick)) {
    if (row["op"] == "grouped_gemm") {
      EXPECT_EQ(row.contains("left_out"), row["table"] == "cuda-simple-emulated");
    }
  }
}

}  // namespace
}  // namespace choir::gpu
