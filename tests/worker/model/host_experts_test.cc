// Which experts a device leaves to the host, and what counts of rows say of it.
#include "worker/model/host_experts.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "tests/golden/golden.h"
#include "tests/support/model_dir.h"
#include "worker/model/expert_counts.h"
#include "worker/model/model.h"

namespace choir {
namespace {

using testing::HasSubstr;

// Three layers, of which the last two have six experts.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.layers = 3;
  config.moe = MoeConfig{.experts = 6, .top_k = 2, .layers = {false, true, true}};
  return config;
}

std::vector<int64_t> Of(const HostExperts& host, size_t layer) {
  std::vector<int64_t> experts;
  for (int64_t e = 0; e < 6; ++e) {
    if (host.Has(layer, e)) experts.push_back(e);
  }
  return experts;
}

using Experts = std::vector<int64_t>;

TEST(HostExperts, AreTheLastOfEachRankWhereNothingIsCounted) {
  const ExpertRows rows = ReadExpertCounts({}, SmallConfig()).value();
  EXPECT_TRUE(ChooseHostExperts(SmallConfig(), 2, 0, rows).empty());
  const HostExperts host = ChooseHostExperts(SmallConfig(), 2, 1, rows);
  EXPECT_EQ(Of(host, 0), Experts());
  EXPECT_EQ(Of(host, 1), (Experts{2, 5}));
  EXPECT_EQ(Of(host, 2), (Experts{2, 5}));
}

TEST(HostExperts, AreThoseWithFewestRows) {
  const ExpertRows rows = {{}, {9, 2, 5, 7, 1, 1}, {0, 0, 0, 4, 3, 2}};
  const HostExperts host = ChooseHostExperts(SmallConfig(), 1, 3, rows);
  EXPECT_EQ(Of(host, 1), (Experts{1, 4, 5}));
  EXPECT_EQ(Of(host, 2), (Experts{0, 1, 2}));
  EXPECT_EQ(Of(ChooseHostExperts(SmallConfig(), 3, 5, rows), 1), (Experts{0, 1, 2, 3, 4, 5}));
}

TEST(HostExperts, ComeAfterTheDevicesOnEveryRank) {
  HostExperts host;
  host.Add(1, 0, SmallConfig());
  host.Add(1, 4, SmallConfig());
  const ExpertPlacement placement = DeviceFirst(ExpertPlacement(6, 2), 1, host);
  EXPECT_EQ(placement.ExpertsOf(0), (std::vector<int32_t>{1, 2, 0}));
  EXPECT_EQ(placement.ExpertsOf(1), (std::vector<int32_t>{3, 5, 4}));
}

TEST(HostExperts, ThatTheHostHasNoRoomForAreRefused) {
  EXPECT_TRUE(CheckHostRoom(3, 1000, 1000).ok());
  const Status status = CheckHostRoom(3, 1001, 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(status), HasSubstr("cpu_experts 3 (--cpu-experts)"));
  EXPECT_THAT(MessageOf(status), HasSubstr("1001 bytes"));
}

TEST(HostExperts, OfADeviceThatReadsTheHostsMemoryAreRefusedByName) {
  LoadOptions options{.model_dir = golden::Dir("tiny_glm4_moe")};
  options.host_experts.count = HostExpertOptions::kWhatDoesNotFit;
  EXPECT_THAT(MessageOf(LoadModel(options, *MakeReferenceKernels()).status()),
              HasSubstr("cpu_experts auto (--cpu-experts): the CPU computes all experts here"));
}

TEST(ExpertCounts, ComeBackAsTheyWereLeftAndAddUp) {
  const ModelDir dir("");
  const ExpertCounts one{.layers = {1, 2},
                         .num_experts = 6,
                         .rows = {1, 2, 3, 4, 5, 6,  //
                                  7, 8, 9, 10, 11, 12}};
  ASSERT_TRUE(WriteExpertCounts(dir.File("a"), one).ok());
  EXPECT_EQ(dir.Read("a"), R"({"experts":6,"layers":{"1":[1,2,3,4,5,6],"2":[7,8,9,10,11,12]}})"
                           "\n");
  const auto rows = ReadExpertCounts({dir.File("a"), dir.File("a")}, SmallConfig());
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(*rows, (ExpertRows{{}, {2, 4, 6, 8, 10, 12}, {14, 16, 18, 20, 22, 24}}));
}

TEST(ExpertCounts, OfAnotherModelNameTheFieldThatDiffers) {
  const ModelDir dir("");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "object"},
      {R"({"layers": {}})", "experts: is missing, the model has 6"},
      {R"({"experts": 7, "layers": {}})", "experts: is 7, the model has 6"},
      {R"({"experts": 6})", "layers: must be an object with the 2 layers"},
      {R"({"experts": 6, "layers": {"1": [1]}})", "layers: must be an object with the 2 layers"},
      {R"({"experts": 6, "layers": {"1": [1, 2, 3, 4, 5, 6], "3": []}})", "layers: 2 is missing"},
      {R"({"experts": 6, "layers": {"1": [1], "2": []}})", "layers.1: must be a list of 6 numbers"},
      {R"({"experts": 6, "layers": {"1": [1, 2, 3, 4, 5, -6], "2": []}})",
       "layers.1: element 5 is not a whole number"},
      {R"({"experts": 6, "layers": {"1": [1e300, 2, 3, 4, 5, 6], "2": []}})",
       "layers.1: element 0 is not a whole number"},
  };
  for (const auto& [text, words] : cases) {
    dir.Write("counts", text);
    const Status status = ReadExpertCounts({dir.File("counts")}, SmallConfig()).status();
    EXPECT_THAT(MessageOf(status), HasSubstr(words)) << text;
    EXPECT_THAT(MessageOf(status), HasSubstr(dir.File("counts"))) << text;
  }
  EXPECT_THAT(MessageOf(ReadExpertCounts({dir.File("none")}, SmallConfig()).status()),
              HasSubstr(dir.File("none")));
}

TEST(ExpertCounts, ThatCannotBeWrittenSaySo) {
  EXPECT_THAT(MessageOf(WriteExpertCounts("/nonexistent/a.json", {})),
              HasSubstr("/nonexistent/a.json"));
}

}  // namespace
}  // namespace choir
