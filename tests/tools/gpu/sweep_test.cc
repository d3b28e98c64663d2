// Shapes drawn at random, on an emulated card: every op is drawn and passes; what is wrong is
// found, and its seed finds it again.
#include "tools/gpu/sweep.h"

#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "tests/tools/gpu/small_card.h"

namespace choir::gpu {
namespace {

using testing::HasSubstr;

SweepOptions Small(int64_t cases) {
  SweepOptions options;
  options.seed = 40;
  options.cases_max = cases;
  options.sizes = SweepSizes::Small();
  return options;
}

TEST(GpuSweep, EveryOpPassesOnBothTables) {
  SmallCard card;
  const auto cases = static_cast<int64_t>(3 * SweepOps().size());
  const auto told = Sweep({&emulation::EmulatedTable(), &emulation::EmulatedTensorTable()},
                          card.card, Small(cases));
  EXPECT_EQ(told["failures"].size(), 0u) << told.dump(1);
  EXPECT_EQ(told["cases"], cases);
  EXPECT_GE(told["compared"].get<int64_t>(), 9);  // the products on tensor cores
  for (const SweepOp& op : SweepOps()) {
    EXPECT_THAT(told["lines"][0].get<std::string>(), HasSubstr(op.name));
  }
}

void WrongNorm(const RmsNormArgs& a, const cuda::KernelStream& stream) {
  RmsNormArgs half = a;
  half.eps = 0.5f;
  emulation::EmulatedTable().rms_norm(half, stream);
}

void NormOfAllRowsButTheLast(const RmsNormArgs& a, const cuda::KernelStream& stream) {
  RmsNormArgs fewer = a;
  fewer.x = a.x.Rows(0, a.x.dim(0) - 1);
  fewer.y = a.y.Rows(0, a.y.dim(0) - 1);
  emulation::EmulatedTable().rms_norm(fewer, stream);
}

nlohmann::ordered_json SweepNorms(void (*norm)(const RmsNormArgs&, const cuda::KernelStream&)) {
  SmallCard card;
  cuda::KernelTable wrong = emulation::EmulatedTable();
  wrong.name = "wrong";
  wrong.rms_norm = norm;
  SweepOptions options = Small(3);
  options.op = "rms_norm";
  return Sweep({&emulation::EmulatedTable(), &wrong}, card.card, options);
}

TEST(GpuSweep, FindsValuesBeyondTheBoundAndNamesTheSeed) {
  const auto told = SweepNorms(WrongNorm);
  ASSERT_EQ(told["failures"].size(), 3u);
  EXPECT_EQ(told["failures"][0]["seed"], 40);
  EXPECT_EQ(told["failures"][0]["op"], "rms_norm");
  EXPECT_THAT(told["failures"][0]["wrong"].get<std::string>(), HasSubstr("wrong: y["));
  EXPECT_THAT(told["lines"][1].get<std::string>(), HasSubstr("--seed 40 --cases 1: rms_norm"));
}

TEST(GpuSweep, FindsWhatWasNotWritten) {
  const auto told = SweepNorms(NormOfAllRowsButTheLast);
  ASSERT_EQ(told["failures"].size(), 3u);
  EXPECT_THAT(told["failures"][0]["wrong"].get<std::string>(), HasSubstr("in a second run"));
}

void RowsInF8WithoutGaps(const QuantizeF8Args& a, const cuda::KernelStream& stream) {
  QuantizeF8Args close = a;
  close.y_stride = 0;
  emulation::EmulatedTable().quantize_f8(close, stream);
}

TEST(GpuSweep, FindsRowsInF8ThatLieAtWrongPlaces) {
  SmallCard card;
  cuda::KernelTable wrong = emulation::EmulatedTable();
  wrong.quantize_f8 = RowsInF8WithoutGaps;
  SweepOptions options = Small(60);
  options.op = "quantize_f8";
  EXPECT_GE(Sweep({&wrong}, card.card, options)["failures"].size(), 2u);
  EXPECT_TRUE(Sweep({&emulation::EmulatedTable()}, card.card, options)["failures"].empty());
}

void ExpertsOfAnotherGlu(const ExpertFfnArgs& a, const cuda::KernelStream& stream) {
  ExpertFfnArgs other = a;
  other.glu = {Glu::Kind::kClamped, 1.3f, 1.702f};
  emulation::EmulatedTable().expert_ffn(other, stream);
}

TEST(GpuSweep, FindsARowThatIsFarOffAsAWhole) {
  SmallCard card;
  cuda::KernelTable wrong = emulation::EmulatedTable();
  wrong.expert_ffn = ExpertsOfAnotherGlu;
  SweepOptions options = Small(2);
  options.op = "expert_ffn f8 rows";
  const auto told = Sweep({&emulation::EmulatedTable(), &wrong}, card.card, options);
  ASSERT_EQ(told["failures"].size(), 2u);
  EXPECT_THAT(told["failures"][0]["wrong"].get<std::string>(), HasSubstr("row 0 of y is"));
}

// Shapes that the fast kernels take: on tensor cores, and Hopper's own.
TEST(GpuSweep, RowsInF8PassOnEveryTableAtShapesOfHoppersKernels) {
  SmallCard card;
  SweepOptions options = Small(6);
  options.seed = 3;
  options.op = "expert_ffn f8 rows";
  options.sizes.hopper = true;
  const auto told = Sweep({&emulation::EmulatedTable(), &emulation::EmulatedTensorTable(),
                           &emulation::EmulatedHopperTable()},
                          card.card, options);
  EXPECT_EQ(told["failures"].size(), 0u) << told.dump(1);
  EXPECT_EQ(told["compared"], 12);
}

// Products in f32 add K in parts of 256 columns.
TEST(GpuSweep, LinearPassesOnEveryTableAtWidthsOfSeveralParts) {
  SmallCard card;
  SweepOptions options = Small(24);
  options.op = "linear";
  options.sizes.width_max = 900;
  const auto told = Sweep({&emulation::EmulatedTable(), &emulation::EmulatedTensorTable(),
                           &emulation::EmulatedHopperTable()},
                          card.card, options);
  EXPECT_EQ(told["failures"].size(), 0u) << told.dump(1);
  EXPECT_EQ(told["compared"], 48);
}

// Takes its row count for part of the result, as a split over idle processors would.
void LinearByRows(const LinearArgs& a, const cuda::KernelStream& stream) {
  LinearArgs other = a;
  if (a.x.dim(0) == 1) other.compute = a.compute == Compute::kF32 ? Compute::kBF16 : Compute::kF32;
  emulation::EmulatedTable().linear(other, stream);
}

TEST(GpuSweep, FindsBitsThatDependOnTheBatch) {
  SmallCard card;
  cuda::KernelTable plain = emulation::EmulatedTable();
  plain.linear = LinearByRows;
  SweepOptions options = Small(8);
  options.op = "linear";
  const auto told = Sweep({&plain}, card.card, options);
  ASSERT_GE(told["failures"].size(), 1u);
  EXPECT_THAT(told["failures"][0]["wrong"].get<std::string>(), HasSubstr("alone has other bits"));
}

TEST(GpuSweep, ASeedDrawsTheSameCaseAgain) {
  SmallCard card;
  for (const SweepOp& op : SweepOps()) {
    Draw first(7, SweepSizes::Small(), &card.card), second(7, SweepSizes::Small(), &card.card);
    EXPECT_EQ(op.make(first).shape, op.make(second).shape) << op.name;
  }
}

TEST(GpuSweep, LeavesOutOpsAndKeepsTheSeedsOfTheOthers) {
  SmallCard card;
  SweepOptions options = Small(static_cast<int64_t>(SweepOps().size()) - 1);
  options.skip = {"rms_norm"};
  const auto told = Sweep({&emulation::EmulatedTable()}, card.card, options);
  EXPECT_EQ(told["cases"], options.cases_max);
  const std::string line = told["lines"][0];
  EXPECT_THAT(line, testing::Not(HasSubstr("rms_norm")));
  for (const SweepOp& op : SweepOps()) {
    if (op.name == std::string("rms_norm")) continue;
    EXPECT_THAT(line, HasSubstr(op.name));
  }
  options.skip.clear();
  for (const SweepOp& op : SweepOps()) options.skip.emplace_back(op.name);
  EXPECT_EQ(Sweep({&emulation::EmulatedTable()}, card.card, options)["cases"], 0);
}

TEST(GpuSweep, EndsInTime) {
  SmallCard card;
  SweepOptions options = Small(1000);
  options.deadline = Clock::Real().Now();
  EXPECT_EQ(Sweep({&emulation::EmulatedTable()}, card.card, options)["cases"], 0);
}

}  // namespace
}  // namespace choir::gpu
