#include "worker/kernel_check.h"

#include <gmock/gmock.h>

#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

using emulation::EmulatedDevices;
using emulation::EmulatedHopperTable;
using emulation::EmulatedTable;
using testing::HasSubstr;

std::string Differs(const cuda::KernelTable& fast,
                    const cuda::KernelTable& simple = EmulatedTable()) {
  const auto differs = DifferenceOfKernels(
      {EmulatedDevices(), 0, BoundedWait(EmulatedDevices(), "a card", {})}, fast, simple);
  return differs.ok() ? *differs : "failed: " + MessageOf(differs.status());
}

TEST(KernelCheck, FindsNothingInKernelsThatAreRight) {
  EXPECT_EQ(Differs(EmulatedHopperTable()), "");
}

TEST(KernelCheck, NamesTheOpThatIsWrong) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.grouped_gemm = [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
    EmulatedHopperTable().grouped_gemm(args, stream);
    if (args.counts.empty()) return;
    EmulatedHopperTable().swi_glu({.gate = args.y, .up = args.y, .y = args.y}, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("grouped_gemm in bf16, masked: row 0, output "));
  wrong = EmulatedHopperTable();
  wrong.linear = [](const LinearArgs&, const cuda::KernelStream&) {};
  EXPECT_THAT(Differs(wrong), HasSubstr("linear of weights in bf16: row 0, output 0 is "));
  wrong = EmulatedHopperTable();
  wrong.expert_ffn = [](const ExpertFfnArgs&, const cuda::KernelStream&) {};
  EXPECT_THAT(Differs(wrong), HasSubstr("expert_ffn of weights in bf16: row 0, output 0 is "));
  wrong.expert_ffn = [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
    ExpertFfnArgs other = args;
    if (args.has_f8_rows()) other.x_scale_stride = 0;
    EmulatedHopperTable().expert_ffn(other, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("expert_ffn of rows in f8: row "));
  wrong = EmulatedHopperTable();
  wrong.mla_attention = [](const MlaAttentionArgs& args, const cuda::KernelStream& stream) {
    MlaAttentionArgs other = args;
    other.scale *= 1.1f;
    EmulatedHopperTable().mla_attention(other, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("mla_attention: row 0, output "));
  wrong.mla_attention = [](const MlaAttentionArgs& args, const cuda::KernelStream& stream) {
    const bool large = stream.workspace.size() > (size_t{64} << 10);
    (large ? EmulatedHopperTable() : EmulatedTable()).mla_attention(args, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("mla_attention: bits depend on how keys are cut"));
  wrong = EmulatedHopperTable();
  wrong.sample = [](const SampleArgs& args, const cuda::KernelStream& stream) {
    std::vector<SampleRow> rows(args.rows.begin(), args.rows.end());
    for (SampleRow& row : rows) row.min_p = 0;
    EmulatedHopperTable().sample({args.logits, rows, args.ids}, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("sample: row 5 gets token "));
}

// Whose bits depend on the number of rows, as those of a library may.
TEST(KernelCheck, NamesTheOpWhoseRowsHaveOtherBitsAlone) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.linear = [](const LinearArgs& args, const cuda::KernelStream& stream) {
    (args.x.dim(0) < 64 ? EmulatedTable() : EmulatedHopperTable()).linear(args, stream);
  };
  EXPECT_EQ(Differs(wrong),
            "linear of weights in bf16: bits of a row depend on the rows beside it");
  wrong = EmulatedHopperTable();
  wrong.expert_ffn = [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
    const bool other = args.has_f8_rows() && args.x.dim(0) < 64;
    (other ? EmulatedTable() : EmulatedHopperTable()).expert_ffn(args, stream);
  };
  EXPECT_EQ(Differs(wrong), "expert_ffn of rows in f8: bits of a row depend on the rows beside it");
}

// The memory of a result still has what an earlier run left there, if nobody spoils it.
TEST(KernelCheck, SeesKernelsThatWriteNothing) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.grouped_gemm = [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
    if (args.counts.empty()) EmulatedHopperTable().grouped_gemm(args, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("grouped_gemm in bf16, masked: row 0, output 0 is nan"));
  wrong.grouped_gemm = [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
    if (args.x.dim(0) > 11) EmulatedHopperTable().grouped_gemm(args, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("grouped_gemm in bf16: bits of a row depend on"));
}

TEST(KernelCheck, SeesRowsThatDoNotExistAndAreWritten) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.grouped_gemm = [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
    GroupedGemmArgs all = args;
    const int32_t offsets[] = {0, 70, 140, 210};
    if (!args.counts.empty()) all.counts = {}, all.offsets = offsets;
    EmulatedHopperTable().grouped_gemm(all, stream);
  };
  EXPECT_THAT(Differs(wrong), HasSubstr("grouped_gemm in bf16, masked: row 5, output "));
}

// As a kernel that the build has not for this card, or one that asks for too much of it.
void LinearThatIsRefused(const LinearArgs&, const cuda::KernelStream&) {
  emulation::LeaveLaunchError("invalid configuration argument");
}

TEST(KernelCheck, NamesTheOpThatTheCardRefusesToStartAndLeavesTheCardAsItWas) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.linear = LinearThatIsRefused;
  EXPECT_EQ(Differs(wrong), "linear cannot be started: invalid configuration argument");
  EXPECT_EQ(EmulatedDevices().poll(), nullptr);
  wrong = EmulatedHopperTable();
  wrong.mla_attention = [](const MlaAttentionArgs&, const cuda::KernelStream&) {
    emulation::LeaveLaunchError("out of resources");
  };
  EXPECT_EQ(Differs(wrong), "mla_attention cannot be started: out of resources");
}

TEST(KernelCheck, AKernelAfterWhichTheCardDoesNothingMoreIsAFailureOfTheCard) {
  cuda::KernelTable wrong = EmulatedHopperTable();
  wrong.linear = [](const LinearArgs&, const cuda::KernelStream&) {
    emulation::FailCard(0, "an illegal instruction was encountered");
  };
  EXPECT_EQ(Differs(wrong), "failed: an illegal instruction was encountered");
  emulation::FailCard(0, nullptr);
}

// Then there is nothing to compare with, and the rung between is not to be trusted either.
TEST(KernelCheck, ARefusalOfTheSimpleKernelsIsAFailureOfTheCard) {
  cuda::KernelTable simple = EmulatedTable();
  simple.linear = LinearThatIsRefused;
  EXPECT_EQ(Differs(EmulatedHopperTable(), simple), "failed: invalid configuration argument");
  EmulatedDevices().forget();
}

TEST(KernelCheck, SaysThatTheCardFails) {
  emulation::FailCard(0, "misaligned address");
  EXPECT_EQ(Differs(EmulatedHopperTable()), "failed: misaligned address");
  emulation::FailCard(0, nullptr);
}

}  // namespace
}  // namespace choir
