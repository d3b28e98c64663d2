// The second rung of the gate and of permute at the shapes of large models, against the simple one
// and the reference; small shapes are in moe_test.cc and gpu_ops_test.cc.
#include <numeric>

#include "kernels/reference/gpu_ops.h"
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir {
namespace {

using emulation::Order;

class TensorChoices : public testing::TestWithParam<std::string> {
 protected:
  const cuda::KernelTable& gpu_ = GpuTable(GetParam());
  const std::shared_ptr<std::byte> memory_ = TestBytes(size_t{1} << 20);
  const std::span<std::byte> workspace_ = {memory_.get(), size_t{1} << 20};
};

struct GateShape {
  int64_t experts, top_k;
  int32_t groups, groups_kept;
  GateScore score;
  GroupScore group_score = GroupScore::kSumOfBestTwo;
};

// DeepSeek V3 and V2, Qwen3, Kimi K2, gpt-oss, and more than any of them.
constexpr GateShape kShapes[] = {
    {256, 8, 8, 4, GateScore::kSigmoid},         {160, 6, 8, 3, GateScore::kSoftmax},
    {128, 8, 1, 1, GateScore::kSoftmax},         {384, 8, 1, 1, GateScore::kSigmoid},
    {128, 4, 1, 1, GateScore::kSoftmaxOfChosen}, {512, 32, 32, 20, GateScore::kSigmoid},
};

TEST_P(TensorChoices, TheGateChoosesAndWeighsAsTheSimpleOne) {
  Random random(1);
  for (const GateShape& s : kShapes) {
    constexpr int64_t kTokens = 7;  // no multiple of a block's
    const Tensor logits = random.Values(DType::kF32, {kTokens, s.experts}, 4.0f);
    for (int64_t i = 0; i < s.experts; ++i)
      logits.f32()[i] = static_cast<float>(i / 5 % 3);  // ties
    logits.f32()[2 * s.experts + 3] = std::nanf("");
    const Tensor bias = random.Values(DType::kF32, {s.experts});
    const Tensor ids(DType::kI32, {kTokens, s.top_k}), want_ids = ids.Clone();
    const Tensor weights(DType::kF32, {kTokens, s.top_k}), want = weights.Clone();
    GateTopKArgs args{.logits = logits,
                      .bias = bias,
                      .score = s.score,
                      .num_groups = s.groups,
                      .groups_kept = s.groups_kept,
                      .group_score = s.group_score,
                      .normalize = true,
                      .scaling = 2.5f,
                      .expert_ids = ids,
                      .weights = weights};
    gpu_.gate_top_k(args, {.native = emulation::StreamInOrder(Order::kShuffled)});
    args.expert_ids = want_ids;
    args.weights = want;
    GpuTable("gpu_emulated").gate_top_k(args, {});
    for (int64_t i = 0; i < kTokens * s.top_k; ++i) {
      ASSERT_EQ(ids.view().data<int32_t>()[i], want_ids.view().data<int32_t>()[i])
          << s.experts << " experts, choice " << i;
      if (std::isnan(want.f32()[i])) continue;
      ASSERT_NEAR(weights.f32()[i], want.f32()[i], 512 * kUnit * want.f32()[i]) << s.experts;
      if (s.score == GateScore::kSoftmax) continue;  // its sum goes another way
      ASSERT_EQ(weights.f32()[i], want.f32()[i]) << s.experts << " experts, weight " << i;
    }
  }
}

// More pairs than chunks of one piece hold, more experts than a block has threads, some elsewhere.
TEST_P(TensorChoices, PermutePlacesAsManyPairsAndExpertsAsThereAre) {
  Random random(2);
  constexpr int64_t kTokens = 4200, kTopK = 8, kExperts = 300;
  const Tensor x = random.Values(DType::kF32, {kTokens, 4});
  const Tensor ids(DType::kI32, {kTokens, kTopK});
  for (int64_t i = 0; i < kTokens * kTopK; ++i) {
    ids.view().data<int32_t>()[i] = static_cast<int32_t>(random.Int(-2, kExperts + 1));
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor offsets(DType::kI32, {kExperts + 1}), want_offsets = offsets.Clone();
    const Tensor row_of(DType::kI32, {kTokens * kTopK}), want_rows = row_of.Clone();
    const Tensor y(dtype, {kTokens * kTopK, 4}), want = y.Clone();
    const Tensor counts(DType::kI64, {kExperts}), want_counts = counts.Clone();
    PermuteArgs args{
        .x = x, .expert_ids = ids, .offsets = offsets, .row_of = row_of, .counts = counts, .y = y};
    gpu_.permute(args,
                 {.native = emulation::StreamInOrder(Order::kShuffled), .workspace = workspace_});
    args.offsets = want_offsets;
    args.row_of = want_rows;
    args.counts = want_counts;
    args.y = want;
    reference::Permute(args);
    EXPECT_EQ(std::memcmp(offsets.view().raw(), want_offsets.view().raw(), 4 * (kExperts + 1)), 0);
    EXPECT_EQ(std::memcmp(counts.view().raw(), want_counts.view().raw(), 8 * kExperts), 0);
    EXPECT_EQ(std::memcmp(row_of.view().raw(), want_rows.view().raw(), 4 * kTokens * kTopK), 0);
    EXPECT_EQ(std::memcmp(y.view().raw(), want.view().raw(), want.view().num_bytes()), 0);
  }
}

// From a thread a token to a block a token, and back; tokens that do not fill the last block.
TEST_P(TensorChoices, RowsOfAnyWidthGoToTheirPlacesAndBack) {
  Random random(4);
  constexpr int64_t kTopK = 3, kExperts = 5;
  for (const int64_t width : {4, 8, 12, 128, 132, 508, 1024, 1028}) {
    const int64_t tokens = random.Int(1, 300);
    const Tensor x = random.Values(DType::kF32, {tokens, width});
    const Tensor weights = random.Values(DType::kF32, {tokens, kTopK});
    const Tensor ids(DType::kI32, {tokens, kTopK});
    for (int64_t i = 0; i < tokens * kTopK; ++i) {
      ids.view().data<int32_t>()[i] = static_cast<int32_t>(random.Int(-1, kExperts));
    }
    const Tensor offsets(DType::kI32, {kExperts + 1});
    const Tensor row_of(DType::kI32, {tokens * kTopK});
    const Tensor y(DType::kF32, {tokens * kTopK, width}), want_y = y.Clone();
    const Tensor out = random.Values(DType::kF32, {tokens, width}), want_out = out.Clone();
    const cuda::KernelTable& simple = GpuTable("gpu_emulated");
    for (const bool fast : {false, true}) {
      const cuda::KernelTable& table = fast ? gpu_ : simple;
      const cuda::KernelStream stream{.native = emulation::StreamInOrder(Order::kShuffled),
                                      .workspace = workspace_};
      const Tensor& rows = fast ? y : want_y;
      table.permute({.x = x, .expert_ids = ids, .offsets = offsets, .row_of = row_of, .y = rows},
                    stream);
      table.unpermute(
          {.y = rows, .row_of = row_of, .weights = weights, .out = fast ? out : want_out}, stream);
    }
    EXPECT_EQ(std::memcmp(y.view().raw(), want_y.view().raw(), y.view().num_bytes()), 0) << width;
    EXPECT_EQ(std::memcmp(out.view().raw(), want_out.view().raw(), out.view().num_bytes()), 0)
        << width;
  }
}

TEST_P(TensorChoices, PermuteDoesWithoutRoomForCounts) {
  Random random(3);
  const Tensor x = random.Values(DType::kF32, {5, 8});
  const Tensor ids(DType::kI32, {5, 2});
  std::iota(ids.view().data<int32_t>(), ids.view().data<int32_t>() + 10, 0);
  const Tensor offsets(DType::kI32, {11}), row_of(DType::kI32, {10});
  const Tensor y(DType::kF32, {10, 8});
  gpu_.permute({.x = x, .expert_ids = ids, .offsets = offsets, .row_of = row_of, .y = y}, {});
  for (int64_t i = 0; i < 80; ++i) ASSERT_EQ(y.f32()[i], x.f32()[i / 16 * 8 + i % 8]) << i;
}

INSTANTIATE_TEST_SUITE_P(Tables, TensorChoices, testing::ValuesIn(TensorTableNames()), NameOfParam);

}  // namespace
}  // namespace choir
