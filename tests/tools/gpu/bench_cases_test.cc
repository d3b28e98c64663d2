// What gpu_check would time on a card, run on an emulated one at small shapes: no launch may be
// refused, no memory missed.
#include "tools/gpu/bench_cases.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/tools/gpu/small_card.h"
#include "tools/gpu/tables.h"

namespace choir::gpu {
namespace {

TEST(GpuBenchCases, RunOnEveryOpAndSayWhatTheyMove) {
  SmallCard card;
  std::set<std::string> ops, names, figures;
  ForBenchCases(SmallShapes(), card.card, [&](const BenchCase& c) {
    SCOPED_TRACE(c.op + " " + c.shape);
    ops.insert(c.op);
    if (!c.figure.empty()) {
      EXPECT_TRUE(figures.insert(c.figure).second) << c.figure << " twice";
    }
    EXPECT_TRUE(names.insert(c.op + " " + c.shape).second) << "named twice";
    EXPECT_GT(c.work.bytes, 0);
    EXPECT_GE(c.work.flops, 0);
    c.run(emulation::EmulatedTable(), card.card.kernel_stream());
    card.card.Wait();
  });
  for (const char* op :
       {"rms_norm", "swi_glu", "embedding", "rope", "quantize_f8", "gate_top_k", "permute",
        "gate + permute", "unpermute", "linear", "head_project", "expert_ffn", "grouped_gemm",
        "paged_attention", "mla_attention", "sample"}) {
    EXPECT_EQ(ops.count(op), 1u) << op;
  }
  EXPECT_EQ(figures, (std::set<std::string>{"f8_contiguous", "f8_decode", "bf16_grouped",
                                            "mla_decode", "gate_permute"}));
}

// Of a module without a card of compute capability 9.0, or without the rung for it: two tables.
TEST(GpuTables, AreThoseThatTheCardCanRun) {
  cuda::Module module;
  module.hopper.name = "cuda-hopper";
  const auto count = [&](int32_t major, int32_t minor) {
    cuda::DeviceInfo card;
    card.major = major;
    card.minor = minor;
    return TablesOf(module, card).size();
  };
  EXPECT_EQ(count(9, 0), 3u);
  EXPECT_EQ(count(8, 0), 2u);
  EXPECT_EQ(count(10, 0), 2u);
  module.hopper.name = nullptr;
  EXPECT_EQ(count(9, 0), 2u);
}

// Rows in f8 are a product of f8 by f8, which has a floor of its own.
TEST(GpuBenchCases, HaveExpertsOfRowsInF8BesideThoseOfRowsInBf16) {
  SmallCard card;
  std::map<std::string, Work> of_bf16, of_f8;
  ForBenchCases(SmallShapes(), card.card, [&](const BenchCase& c) {
    if (c.op != "expert_ffn") return;
    const size_t end = c.shape.find(", rows in f8");
    (end == std::string::npos ? of_bf16 : of_f8)[c.shape.substr(0, end)] = c.work;
  });
  ASSERT_EQ(of_f8.size(), 3u);  // of both batches and the prefill
  ASSERT_EQ(of_bf16.size(), 3u);
  for (const auto& [shape, work] : of_f8) {
    EXPECT_EQ(work.math, Math::kF8);
    EXPECT_EQ(of_bf16[shape].math, Math::kBF16);
    EXPECT_EQ(work.flops, of_bf16[shape].flops) << shape;
    EXPECT_LT(work.bytes, of_bf16[shape].bytes) << shape;
  }
}

TEST(GpuBenchCases, KnowWhichTablesRunTheSameFunction) {
  SmallCard card;
  std::set<std::string> other;
  ForBenchCases(SmallShapes(), card.card, [&](const BenchCase& c) {
    if (!c.same(emulation::EmulatedTable(), emulation::EmulatedTensorTable())) other.insert(c.op);
  });
  EXPECT_EQ(other, (std::set<std::string>{"linear", "head_project", "grouped_gemm", "expert_ffn",
                                          "merged_linear", "store_latent", "embedding", "rms_norm",
                                          "rope", "swi_glu", "gate_top_k", "permute", "unpermute",
                                          "gate + places", "gate + permute", "paged_attention",
                                          "mla_attention", "sample"}));
}

}  // namespace
}  // namespace choir::gpu
