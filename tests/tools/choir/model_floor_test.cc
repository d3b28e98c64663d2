#include "tools/choir/model_floor.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

FloorInput Dense() {
  FloorInput in;
  in.info.active_weight_bytes = 1000;
  in.info.active_flops = 1000;
  in.info.vocab = 10;
  in.info.hidden = 20;
  in.kv = {.dtype = DType::kBF16, .layers = {{.k_width = 1}}};
  in.read_bytes_per_s = 1e6;
  in.flops_per_s = 1e9;
  return in;
}

TEST(ModelFloorTest, DecodeOfOneSequenceIsBoundByBytes) {
  EXPECT_DOUBLE_EQ(DecodeFloor(Dense(), 1, 0), 1000.0);
  EXPECT_DOUBLE_EQ(DecodeFloor(Dense(), 1, 500), 500.0);  // the KV pool is read as well
}

TEST(ModelFloorTest, AWindowLimitsWhatIsReadOfTheKvPool) {
  FloorInput in = Dense();
  in.kv.layers[0].window = 500;
  EXPECT_DOUBLE_EQ(DecodeFloor(in, 1, 90000), 500.0);
}

TEST(ModelFloorTest, ABatchSharesTheWeights) {
  EXPECT_DOUBLE_EQ(DecodeFloor(Dense(), 8, 0), 8000.0);
}

TEST(ModelFloorTest, AGreatBatchIsBoundByProducts) {
  EXPECT_DOUBLE_EQ(DecodeFloor(Dense(), 1 << 20, 0), 1e6);
}

TEST(ModelFloorTest, BytesAloneCountWhereTheMultiplyRateIsNotKnown) {
  FloorInput in = Dense();
  in.flops_per_s = 0;
  EXPECT_DOUBLE_EQ(DecodeFloor(in, 8, 0), 8000.0);
}

TEST(ModelFloorTest, MoreRowsReachMoreExpertsButNeverMoreThanAll) {
  ModelInfo info;
  info.active_weight_bytes = 100 + 2 * 10;
  info.expert_bytes = 10;
  info.num_experts = 8;
  info.top_k = 2;
  EXPECT_DOUBLE_EQ(StepWeightBytes(info, 1), 120.0);
  EXPECT_NEAR(StepWeightBytes(info, 2), 100 + 8 * 10 * (1 - 0.5625), 1e-9);
  EXPECT_NEAR(StepWeightBytes(info, 1000), 180.0, 1e-9);
}

TEST(ModelFloorTest, PrefillNeedsTheHeadOncePerPrompt) {
  FloorInput in = Dense();
  in.read_bytes_per_s = 1e12;
  // 4 prompts of 100 tokens: 600 flops a token and 400 a prompt.
  EXPECT_NEAR(PrefillFloor(in, 4, 100, 64), 400.0 / ((400 * 600 + 4 * 400) / 1e9), 1e-3);
  in.read_bytes_per_s = 1e6;
  in.flops_per_s = 1e12;
  EXPECT_NEAR(PrefillFloor(in, 4, 100, 64), 400.0 / (7 * 1000 / 1e6), 1e-3);
}

}  // namespace
}  // namespace choir
