#include "worker/kernel_check.h"

#include <gmock/gmock.h>

#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

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

constexpr size_t kMostBytes = size_t{1} << 20;

// An op that does nothing but write zeros: quick.
void PutZeros(const TensorView& to, const cuda::KernelStream& stream) {
  static const std::vector<std::byte> zeros(kMostBytes);
  CHOIR_CHECK(to.num_bytes() <= kMostBytes);
  (void)EmulatedDevices().copy(to.raw(), zeros.data(), to.num_bytes(), stream.native);
}

cuda::KernelTable QuickTable() {
  using S = const cuda::KernelStream&;
  cuda::KernelTable t;
  t.grouped_gemm = [](const GroupedGemmArgs& a, S s) { PutZeros(a.y, s); };
  t.linear = [](const LinearArgs& a, S s) { PutZeros(a.y, s); };
  t.head_project = [](const HeadProjectArgs& a, S s) { PutZeros(a.y, s); };
  t.expert_ffn = [](const ExpertFfnArgs& a, S s) { PutZeros(a.y, s); };
  t.mla_attention = [](const MlaAttentionArgs& a, S s) { PutZeros(a.out, s); };
  t.sample = [](const SampleArgs& a, S s) { PutZeros(a.ids, s); };
  return t;
}

// Of a rung with this op; the others are alike and quick in both.
template <class Op>
std::string DiffersIn(Op cuda::KernelTable::*op, std::type_identity_t<Op> wrong) {
  cuda::KernelTable fast = QuickTable();
  cuda::KernelTable simple = QuickTable();
  fast.*op = wrong;
  simple.*op = EmulatedTable().*op;
  return Differs(fast, simple);
}
constexpr auto kGrouped = &cuda::KernelTable::grouped_gemm;
constexpr auto kLinear = &cuda::KernelTable::linear;
constexpr auto kHeads = &cuda::KernelTable::head_project;
constexpr auto kExperts = &cuda::KernelTable::expert_ffn;
constexpr auto kMla = &cuda::KernelTable::mla_attention;
constexpr auto kSample = &cuda::KernelTable::sample;

// Puts other values there.
void Disturb(const TensorView& y, const cuda::KernelStream& stream) {
  EmulatedHopperTable().swi_glu({.gate = y, .up = y, .y = y}, stream);
}

// What a kernel of the card does to memory.
void OnCard(const cuda::KernelStream& stream, std::function<void()> work) {
  static_cast<emulation::EmulatedStream*>(stream.native)->Do(std::move(work));
}

TEST(KernelCheck, NamesTheProductThatIsWrong) {
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().grouped_gemm(args, stream);
                          if (!args.counts.empty()) Disturb(args.y, stream);
                        }),
              HasSubstr("grouped_gemm in bf16, masked: row 0, output "));
  EXPECT_THAT(DiffersIn(kLinear, [](const LinearArgs&, const cuda::KernelStream&) {}),
              HasSubstr("linear of weights in bf16: row 0, output 0 is "));
  EXPECT_THAT(DiffersIn(kExperts, [](const ExpertFfnArgs&, const cuda::KernelStream&) {}),
              HasSubstr("expert_ffn of weights in bf16: row 0, output 0 is "));
  EXPECT_THAT(DiffersIn(kExperts,
                        [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
                          ExpertFfnArgs other = args;
                          if (args.has_f8_rows()) other.x_scale_stride = 0;
                          EmulatedHopperTable().expert_ffn(other, stream);
                        }),
              HasSubstr("expert_ffn of rows in f8: row "));
}

TEST(KernelCheck, NamesTheOpThatIsWrong) {
  EXPECT_THAT(DiffersIn(kHeads,
                        [](const HeadProjectArgs& args, const cuda::KernelStream& stream) {
                          HeadProjectArgs other = args;
                          other.x_head_stride = args.x.dim(2);
                          EmulatedHopperTable().head_project(other, stream);
                        }),
              HasSubstr("head_project: row 0, output 72 is "));
  EXPECT_THAT(DiffersIn(kHeads,
                        [](const HeadProjectArgs& args, const cuda::KernelStream& stream) {
                          HeadProjectArgs other = args;
                          if (args.transpose) other.w_head_stride = 0;
                          EmulatedHopperTable().head_project(other, stream);
                        }),
              HasSubstr("head_project, transposed: row 0, output 72 is "));
  EXPECT_THAT(DiffersIn(kMla,
                        [](const MlaAttentionArgs& args, const cuda::KernelStream& stream) {
                          MlaAttentionArgs other = args;
                          other.scale *= 1.1f;
                          EmulatedHopperTable().mla_attention(other, stream);
                        }),
              HasSubstr("mla_attention: row 0, output "));
  EXPECT_THAT(
      DiffersIn(kMla,
                [](const MlaAttentionArgs& args, const cuda::KernelStream& stream) {
                  const bool large = stream.workspace.size() > (size_t{64} << 10);
                  (large ? EmulatedHopperTable() : EmulatedTable()).mla_attention(args, stream);
                }),
      HasSubstr("mla_attention: bits depend on how keys are cut"));
  EXPECT_THAT(DiffersIn(kSample,
                        [](const SampleArgs& args, const cuda::KernelStream& stream) {
                          std::vector<SampleRow> rows(args.rows.begin(), args.rows.end());
                          for (SampleRow& row : rows) row.min_p = 0;
                          EmulatedHopperTable().sample({args.logits, rows, args.ids}, stream);
                        }),
              HasSubstr("sample: row 5 gets token "));
}

// Of 64 columns: what a pipeline of 8 stages does when it comes round.
constexpr int64_t kEightSteps = int64_t{8} * 64;

TEST(KernelCheck, SeesStagesThatAreWrongWhenTheyAreFilledAgain) {
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().grouped_gemm(args, stream);
                          if (args.x.dim(1) > kEightSteps) Disturb(args.y, stream);
                        }),
              HasSubstr("grouped_gemm in bf16: row 0, output "));
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().grouped_gemm(args, stream);
                          const bool f8 = args.x.dtype() == DType::kF8E4M3;
                          if (f8 && args.x.dim(1) > 2 * kEightSteps) Disturb(args.y, stream);
                        }),
              HasSubstr("grouped_gemm in f8_e4m3: row 0, output "));
  EXPECT_THAT(DiffersIn(kLinear,
                        [](const LinearArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().linear(args, stream);
                          if (args.x.dim(1) > 2 * kEightSteps) Disturb(args.y, stream);
                        }),
              HasSubstr("linear of weights in bf16: row 0, output "));
  EXPECT_THAT(DiffersIn(kExperts,
                        [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().expert_ffn(args, stream);
                          if (args.scratch.dim(1) > kEightSteps) Disturb(args.y, stream);
                        }),
              HasSubstr("expert_ffn of weights in bf16: row 0, output "));
}

TEST(KernelCheck, SeesABlocksSecondTile) {
  EXPECT_THAT(DiffersIn(kLinear,
                        [](const LinearArgs& args, const cuda::KernelStream& stream) {
                          EmulatedHopperTable().linear(args, stream);
                          constexpr int64_t kFirstTiles = emulation::kEmulatedCard.multiprocessors;
                          if (args.y.dim(1) <= kFirstTiles * 256) return;
                          OnCard(stream, [y = args.y.f32()] { y[kFirstTiles * 256] += 1; });
                        }),
              HasSubstr("linear in many tiles, weights in bf16: row 0, output 1024 is "));
}

// As where an expert's maps cannot be read.
TEST(KernelCheck, SeesExpertsFromThe13thOnThatAreWrong) {
  EXPECT_THAT(DiffersIn(kExperts,
                        [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
                          ExpertFfnArgs other = args;
                          std::vector<ExpertWeights> experts(args.experts.begin(),
                                                             args.experts.end());
                          for (size_t e = 13; e < experts.size(); ++e) experts[e] = experts[0];
                          other.experts = experts;
                          EmulatedHopperTable().expert_ffn(other, stream);
                        }),
              HasSubstr("expert_ffn of weights in bf16: row 3, output "));
  EXPECT_THAT(DiffersIn(kExperts,
                        [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
                          ExpertFfnArgs other = args;
                          std::vector<ExpertWeights> experts(args.experts.begin(),
                                                             args.experts.end());
                          if (args.has_f8_rows()) experts.back() = experts[experts.size() - 2];
                          if (experts.size() > 2) other.experts = experts;
                          EmulatedHopperTable().expert_ffn(other, stream);
                        }),
              HasSubstr("expert_ffn of rows in f8, of many experts: row 12, output "));
}

TEST(KernelCheck, SeesSubnormalWeightsThatBecomeZeros) {
  const auto flushes = [](const LinearArgs& args, const cuda::KernelStream& stream) {
    if (args.w.dtype() != DType::kF8E4M3) return EmulatedHopperTable().linear(args, stream);
    auto* codes = reinterpret_cast<uint8_t*>(args.w.raw());
    const auto before = std::make_shared<std::vector<uint8_t>>(args.w.num_bytes());
    OnCard(stream, [codes, before] {
      for (size_t i = 0; i < before->size(); ++i) {
        (*before)[i] = codes[i];
        if ((codes[i] & 0x78) == 0) codes[i] &= 0x80;
      }
    });
    EmulatedHopperTable().linear(args, stream);
    OnCard(stream, [codes, before] { std::memcpy(codes, before->data(), before->size()); });
  };
  EXPECT_THAT(DiffersIn(kLinear, flushes), HasSubstr("linear of subnormal weights in f8: row 0, "));
}

// Whose bits depend on the number of rows, as those of a library may.
TEST(KernelCheck, NamesTheOpWhoseRowsHaveOtherBitsAlone) {
  EXPECT_EQ(DiffersIn(kLinear,
                      [](const LinearArgs& args, const cuda::KernelStream& stream) {
                        const bool few = args.x.dim(0) < 64;
                        (few ? EmulatedTable() : EmulatedHopperTable()).linear(args, stream);
                      }),
            "linear of weights in bf16: bits of a row depend on the rows beside it");
  EXPECT_EQ(DiffersIn(kLinear,
                      [](const LinearArgs& args, const cuda::KernelStream& stream) {
                        const bool one = args.x.dim(0) == 1;
                        (one ? EmulatedTable() : EmulatedHopperTable()).linear(args, stream);
                      }),
            "linear in many tiles, weights in bf16: bits of a row depend on the rows beside it");
  EXPECT_EQ(DiffersIn(kHeads,
                      [](const HeadProjectArgs& args, const cuda::KernelStream& stream) {
                        const bool few = args.x.dim(0) <= 16;
                        (few ? EmulatedTable() : EmulatedHopperTable()).head_project(args, stream);
                      }),
            "head_project: bits of a row depend on the rows beside it");
  EXPECT_EQ(DiffersIn(kExperts,
                      [](const ExpertFfnArgs& args, const cuda::KernelStream& stream) {
                        const bool other = args.has_f8_rows() && args.x.dim(0) < 64;
                        (other ? EmulatedTable() : EmulatedHopperTable()).expert_ffn(args, stream);
                      }),
            "expert_ffn of rows in f8: bits of a row depend on the rows beside it");
}

// The memory of a result still has what an earlier run left there, if nobody spoils it.
TEST(KernelCheck, SeesKernelsThatWriteNothing) {
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          if (args.counts.empty()) EmulatedHopperTable().grouped_gemm(args, stream);
                        }),
              HasSubstr("grouped_gemm in bf16, masked: row 0, output 0 is nan"));
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          if (args.x.dim(0) > 11) EmulatedHopperTable().grouped_gemm(args, stream);
                        }),
              HasSubstr("grouped_gemm in bf16: bits of a row depend on"));
}

TEST(KernelCheck, SeesRowsThatDoNotExistAndAreWritten) {
  EXPECT_THAT(DiffersIn(kGrouped,
                        [](const GroupedGemmArgs& args, const cuda::KernelStream& stream) {
                          GroupedGemmArgs all = args;
                          const int32_t offsets[] = {0, 70, 140, 210};
                          if (!args.counts.empty()) all.counts = {}, all.offsets = offsets;
                          EmulatedHopperTable().grouped_gemm(all, stream);
                        }),
              HasSubstr("grouped_gemm in bf16, masked: row 5, output "));
}

// As a kernel that the build has not for this card, or one that asks for too much of it.
void LinearThatIsRefused(const LinearArgs&, const cuda::KernelStream&) {
  emulation::LeaveLaunchError("invalid configuration argument");
}

TEST(KernelCheck, NamesTheOpThatTheCardRefusesToStartAndLeavesTheCardAsItWas) {
  EXPECT_EQ(DiffersIn(kLinear, LinearThatIsRefused),
            "linear cannot be started: invalid configuration argument");
  EXPECT_EQ(EmulatedDevices().poll(), nullptr);
  EXPECT_EQ(DiffersIn(kMla,
                      [](const MlaAttentionArgs&, const cuda::KernelStream&) {
                        emulation::LeaveLaunchError("out of resources");
                      }),
            "mla_attention cannot be started: out of resources");
}

TEST(KernelCheck, AKernelAfterWhichTheCardDoesNothingMoreIsAFailureOfTheCard) {
  EXPECT_EQ(DiffersIn(kLinear,
                      [](const LinearArgs&, const cuda::KernelStream&) {
                        emulation::FailCard(0, "an illegal instruction was encountered");
                      }),
            "failed: an illegal instruction was encountered");
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
