// The issue's figures from what a run wrote: which reading judges, what stands beside it, and that
// no batch, table or missing part makes one look better.
#include "tools/gpu/figures.h"

#include <gmock/gmock.h>

#include "tools/gpu/data_sheet.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Json Figure(const Json& figures, const std::string& name) {
  for (const Json& f : figures) {
    if (f["figure"] == name) return f;
  }
  return {};
}

Json Seen(const std::string& name, const Json& report) { return Figure(FiguresOf(report), name); }

const Json kHopper = {{"name", "NVIDIA H200"}, {"processors", 132}};

TEST(GpuFigures, SayOfEveryOneThatIsMissingThatItWasNotSeen) {
  const Json figures = FiguresOf(Json::object());
  ASSERT_EQ(figures.size(), FigureAims().size());
  for (const Json& f : figures) {
    EXPECT_TRUE(f["seen"].is_null()) << f.dump();
    EXPECT_FALSE(f.contains("reached")) << f.dump();
  }
  EXPECT_THAT(FiguresTable(figures), HasSubstr("not seen in this run"));
}

TEST(GpuFigures, AreOfTheBestTable) {
  const Json figures = FiguresOf({{"ops", Json::parse(R"([
    {"table": "a", "figure": "f8_decode", "copy_percent": 40.0},
    {"table": "b", "figure": "f8_decode", "copy_percent": 80.0},
    {"table": "a", "op": "gate + places", "figure": "gate_permute", "us": 9.0},
    {"table": "b", "op": "gate + places", "figure": "gate_permute", "us": 12.0},
    {"table": "b", "op": "gate + permute", "us": 200.0},
    {"table": "a", "op": "gate + permute", "us": 300.0},
    {"table": "a", "figure": "bf16_grouped", "us": 20.0, "cublaslt_us": 10.0},
    {"table": "a", "figure": "mla_decode", "left_out": "no time left"}])")}});
  const Json decode = Figure(figures, "f8_decode"), gate = Figure(figures, "gate_permute");
  EXPECT_EQ(decode["seen"], 80.0);
  EXPECT_EQ(decode["by"], "b");
  EXPECT_EQ(decode["reached"], true);
  EXPECT_EQ(gate["seen"], 9.0);
  EXPECT_EQ(gate["reached"], true);
  EXPECT_EQ(gate["readings"][1]["value"], 300.0) << "of the same table";
  EXPECT_EQ(gate["readings"][1]["judged"], false);
  EXPECT_EQ(Figure(figures, "bf16_grouped")["seen"], 0.5);
  EXPECT_EQ(Figure(figures, "bf16_grouped")["reached"], false);
  EXPECT_TRUE(Figure(figures, "mla_decode")["seen"].is_null());
  EXPECT_THAT(FiguresTable(figures),
              HasSubstr("0.50x cuBLASLt's rate for it as one matrix (a), not reached"));
  EXPECT_THAT(FiguresTable(figures), HasSubstr("300.00 us with their rows copied"));
}

// 70 % of what cuBLASLt does is no 60 % of the data sheet's.
TEST(GpuFigures, Fp8IsJudgedByTheDataSheetAndSaysWhatItIsOfCublasLt) {
  const Json row = {
      {"table", "t"}, {"figure", "f8_contiguous"}, {"tflops", 989.5}, {"gemm_percent", 70.0}};
  const Json f = Seen("f8_contiguous", {{"card", kHopper}, {"ops", Json::array({row})}});
  EXPECT_EQ(f["seen"], 50.0);
  EXPECT_EQ(f["reached"], false);
  EXPECT_THAT(f["judged_by"].get<std::string>(), HasSubstr("1979 TFLOPS"));
  ASSERT_EQ(f["readings"].size(), 2u);
  EXPECT_EQ(f["readings"][0]["value"], 50.0);
  EXPECT_EQ(f["readings"][0]["judged"], true);
  EXPECT_EQ(f["readings"][1]["value"], 70.0);
  EXPECT_EQ(f["readings"][1]["judged"], false);
  EXPECT_THAT(FiguresTable(Json::array({f})),
              HasSubstr("| 50.00 % of the dense FP8 peak, 1979 TFLOPS by the data sheet of NVIDIA "
                        "H200 (t), not reached | 70.00 % of cuBLASLt's best dense FP8 rate |"));
}

TEST(GpuFigures, WithoutADataSheetFp8IsJudgedByWhatWasMeasuredAndSaysSo) {
  const Json row = {
      {"table", "t"}, {"figure", "f8_contiguous"}, {"tflops", 989.5}, {"gemm_percent", 70.0}};
  const Json f = Seen("f8_contiguous", {{"card", {{"name", "NVIDIA Z9"}, {"processors", 132}}},
                                        {"ops", Json::array({row})}});
  EXPECT_EQ(f["seen"], 70.0);
  EXPECT_EQ(f["reached"], true);
  EXPECT_EQ(f["judged_by"], "of cuBLASLt's best dense FP8 rate");
  EXPECT_EQ(f["readings"].size(), 1u);
  EXPECT_THAT(FiguresTable(Json::array({f})), HasSubstr("no data sheet of NVIDIA Z9 is known"));
}

TEST(GpuDataSheets, AreOfWholeCards) {
  ASSERT_NE(DataSheetOf("NVIDIA H100 80GB HBM3", 132), nullptr);
  EXPECT_EQ(DataSheetOf("NVIDIA H100 80GB HBM3", 132)->f8_tflops, 1979);
  EXPECT_EQ(DataSheetOf("NVIDIA H200", 60), nullptr);
  EXPECT_EQ(DataSheetOf("NVIDIA H200 MIG 3g.71gb", 60), nullptr);
  EXPECT_EQ(DataSheetOf("NVIDIA H200 NVL", 132), nullptr);
}

TEST(GpuFigures, MlaIsJudgedByTheCopyAndSaysWhatBindsIt) {
  Json row = {{"table", "t"},
              {"figure", "mla_decode"},
              {"copy_percent", 63.0},
              {"floor_percent", 90.0},
              {"bound", "gemm"}};
  Json f = Seen("mla_decode", {{"ops", Json::array({row})}});
  EXPECT_EQ(f["seen"], 63.0);
  EXPECT_EQ(f["reached"], false);
  EXPECT_EQ(f["readings"][1]["value"], 90.0);
  EXPECT_THAT(f["note"].get<std::string>(), HasSubstr("at 70 % of the copy"));
  EXPECT_THAT(FiguresTable(Json::array({f})), HasSubstr("| 90.00 % of its floor; its products"));
  row["bound"] = "copy";
  f = Seen("mla_decode", {{"ops", Json::array({row})}});
  EXPECT_FALSE(f.contains("note"));
}

Json Slice(const std::string& batches) {
  Json slice = Json::parse(R"({"table": "t", "steps": [
    {"kind": "prefill", "rows": 4096, "step_ratio": 1.0},
    {"kind": "decode", "rows": 64, "step_ratio": 1.5},
    {"kind": "decode", "rows": 128, "step_ratio": 1.2},
    {"kind": "decode", "rows": 16, "step_ratio": 1.25}]})");
  slice["batches"] = Json::parse(batches);
  return slice;
}

TEST(GpuFigures, TheStepsRatioIsTheWorstBatchAndTellsAll) {
  const Json f = Seen("step_ratio", {{"slice", Slice("[64, 128, 16]")}});
  EXPECT_EQ(f["seen"], 1.5);
  EXPECT_EQ(f["reached"], false);
  EXPECT_EQ(f["worst"], Json({{"batch", 64}, {"value", 1.5}}));
  EXPECT_EQ(f["best"], Json({{"batch", 128}, {"value", 1.2}}));
  ASSERT_EQ(f["readings"].size(), 3u);
  for (const Json& r : f["readings"]) EXPECT_EQ(r["judged"], true);
  EXPECT_THAT(FiguresTable(Json::array({f})),
              HasSubstr("(t, batch 64, the worst of 3), not reached | 1.50x at batch 64; 1.20x at "
                        "batch 128; 1.25x at batch 16; the best is batch 128 |"));
}

TEST(GpuFigures, ABatchThatIsMissingReachesNothing) {
  Json slice = Slice("[128, 16]");
  slice["steps"].erase(1);
  EXPECT_EQ(Seen("step_ratio", {{"slice", slice}})["reached"], true);
  slice["batches"] = {128, 16, 1};
  const Json f = Seen("step_ratio", {{"slice", slice}});
  EXPECT_EQ(f["seen"], 1.25);
  EXPECT_EQ(f["reached"], false);
  EXPECT_THAT(f["note"].get<std::string>(), HasSubstr("not measured: batch 1"));
}

}  // namespace
}  // namespace choir::gpu
