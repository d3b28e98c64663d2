#include "tools/gpu/report.h"

#include <gmock/gmock.h>

#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

class GpuReport : public testing::Test {
 protected:
  void Put(const std::string& name, const std::string& text) const {
    std::ofstream(dir_.path() + "/" + name) << text;
  }
  Json Merged() const { return Merge(dir_.path(), {"2026-12-01", "abc123", "580.1"}); }

  const TempDir dir_;
};

TEST_F(GpuReport, SaysOfEveryPartThatIsMissingThatItIs) {
  const Json report = Merged();
  EXPECT_FALSE(report["figures"].empty());
  EXPECT_THAT(MarkdownOf(report), HasSubstr("not seen in this run"));
  EXPECT_THAT(MarkdownOf(report), HasSubstr("Limits of the card: not measured"));
  EXPECT_THAT(MarkdownOf(report), HasSubstr("nothing was written"));
  EXPECT_THAT(SummaryOf(report), HasSubstr("commit abc123"));
}

TEST_F(GpuReport, HasFiguresOfCardOpsAndSlice) {
  Put("card.json", R"({"name": "NVIDIA H200", "processors": 132})");
  Put("ops.json", R"([
    {"table": "b", "figure": "f8_contiguous", "us": 10, "tflops": 1187.4, "gemm_percent": 80.0},
    {"table": "a", "figure": "mla_decode", "left_out": "no time left"}])");
  Put("slice.json", R"({"table": "t", "model": "eight layers", "batches": [64, 128], "steps": [
    {"kind": "prefill", "rows": 4096, "ms": 2, "floor_ms": 2, "step_ratio": 1.0},
    {"kind": "decode", "rows": 64, "ms": 3, "floor_ms": 2, "step_ratio": 1.5,
     "plain_ms": 4, "ops_ms": {"sample": 0.5, "linear": 1.25}, "ops_floor_ms": {"linear": 1}},
    {"kind": "decode", "rows": 128, "ms": 5, "floor_ms": 4, "step_ratio": 1.25}],
    "projection": [{"text": "61 layers: so and so"}]})");
  const Json report = Merged();
  for (const std::string& text : {MarkdownOf(report), SummaryOf(report)}) {
    EXPECT_THAT(text, HasSubstr("60.00 % of the dense FP8 peak"));
    EXPECT_THAT(text, HasSubstr("80.00 % of cuBLASLt's best dense FP8 rate"));
    EXPECT_THAT(text, HasSubstr("the worst of 2), not reached"));
    EXPECT_THAT(text, HasSubstr("| decode | 64 | 3.00 | 4.00 | 2.00 | 1.50 | - | "
                                "linear 1.25 of 1.00, sample 0.50 of 0.00 |"));
    EXPECT_THAT(text, HasSubstr("61 layers: so and so"));
  }
  EXPECT_THAT(MarkdownOf(report), HasSubstr("no time left"));
}

// What the rung below measured after the fastest one had broken the card.
TEST_F(GpuReport, TakesInWhatTheRungBelowHas) {
  Put("ops-tensor.json", R"([{"table": "b", "figure": "f8_contiguous", "us": 3}])");
  Put("slice-tensor.json", R"({"table": "b", "steps": [{"kind": "decode", "rows": 1}]})");
  EXPECT_EQ(Merged()["ops"].size(), 1u);
  EXPECT_EQ(Merged()["slice"]["table"], "b");
  Put("ops.json", R"([{"table": "a", "us": 1}])");
  Put("slice.json", R"({"table": "a", "steps": []})");
  EXPECT_EQ(Merged()["ops"].size(), 2u);
  EXPECT_EQ(Merged()["slice"]["table"], "b");
  Put("slice.json", R"({"table": "a", "steps": [{"kind": "decode", "rows": 1}]})");
  EXPECT_EQ(Merged()["slice"]["table"], "a");
  Put("ops-apart.json", R"([{"table": "a", "us": 1}])");
  EXPECT_EQ(Merged()["ops"].size(), 3u);
}

TEST_F(GpuReport, AddsWhatWasTakenOnceMore) {
  Put("sweep2.json", R"({"seed": 7, "cases": 2, "failures": [], "lines": ["2 shapes"]})");
  EXPECT_EQ(Merged()["sweep"]["cases"], 2);
  Put("sweep.json", R"({"seed": 1, "cases": 3, "failures": [1], "lines": ["3 shapes"]})");
  Put("processes-tensor.json", R"({"lines": ["1 rank"], "runs": []})");
  const Json report = Merged();
  EXPECT_EQ(report["sweep"], Json::parse(R"({"seed": 1, "cases": 5, "failures": [1],
                                             "lines": ["3 shapes", "2 shapes"]})"));
  EXPECT_EQ(report["processes"]["lines"].size(), 1u);
}

TEST_F(GpuReport, ListsHowEverySectionEnded) {
  Put("sections",
      "limits\tpassed\t12\t30\nsweep\thung\t70\t70\nslice\tleft out: no time left\t0\t0\n");
  Put("sweep.json", "{\"lines\": [\"3 shapes\"]}");
  Put("nccl.json", "{ broken");
  const Json report = Merged();
  ASSERT_EQ(report["sections"].size(), 3u);
  EXPECT_EQ(report["sections"][1]["state"], "hung");
  EXPECT_THAT(SummaryOf(report), HasSubstr("| sweep | hung | 70 | 70 |"));
  EXPECT_THAT(SummaryOf(report), HasSubstr("left out: no time left"));
  EXPECT_THAT(SummaryOf(report), HasSubstr("- 3 shapes"));
  EXPECT_FALSE(report.contains("nccl"));
}

TEST_F(GpuReport, NamesCardDriverCommitAndLimits) {
  Put("card.json",
      R"({"name": "NVIDIA H200", "compute_capability": "9.0", "driver_cuda": "13.0"})");
  Put("limits.json", R"({"copy_gb_per_s": 4300.0, "bf16_tflops": 790.0, "f8_tflops": 1500.0})");
  EXPECT_THAT(MarkdownOf(Merged()),
              HasSubstr("Card: NVIDIA H200, compute capability 9.0; driver 580.1, for CUDA "
                        "13.0; commit abc123."));
  EXPECT_THAT(SummaryOf(Merged()), HasSubstr("4300 GB/s"));
  EXPECT_THAT(SummaryOf(Merged()), HasSubstr("790 TFLOPS in BF16, 1500 in FP8"));
  Put("limits.json", R"({"copy_gb_per_s": 4300.0, "missing": "libcublasLt is not here"})");
  EXPECT_THAT(SummaryOf(Merged()), HasSubstr("libcublasLt is not here"));
}

}  // namespace
}  // namespace choir::gpu
