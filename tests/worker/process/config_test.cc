#include "worker/config.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/temp_dir.h"
#include "worker/device/table_device.h"
#include "worker/expert_options.h"
#include "worker/model/host_experts.h"
#include "worker/model_options.h"

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::optional<int> Read(std::vector<const char*> flags, WorkerConfig* config) {
  flags.insert(flags.begin(), "choir-worker");
  return ReadWorkerConfig(static_cast<int>(flags.size()), flags.data(), config);
}

// What is printed of flags that are refused.
std::string Refusal(std::vector<const char*> flags) {
  WorkerConfig config;
  flags.insert(flags.begin(), {"--model", "m"});
  testing::internal::CaptureStderr();
  const std::optional<int> code = Read(std::move(flags), &config);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(code, 2) << told;
  return told;
}

TEST(WorkerConfig, FillsInWhatFollowsFromTheIndex) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "/models/tiny/", "--group", "2", "--ranks", "3", "--rank", "1",
                  "--leader", "127.0.0.1:1"},
                 &c),
            std::nullopt);
  EXPECT_EQ(c.listen, "127.0.0.1:7107");
  EXPECT_EQ(c.admin, "127.0.0.1:9107");
  EXPECT_EQ(c.model_name, "tiny");
  EXPECT_GE(c.threads, 1);
}

TEST(WorkerConfig, ReadsSizesAndKeepsWhatIsGiven) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--kv-bytes", "64MiB", "--listen", "127.0.0.1:0", "--threads",
                  "3", "--model-name", "other"},
                 &c),
            std::nullopt);
  EXPECT_EQ(c.kv_bytes, uint64_t{64} << 20);
  EXPECT_TRUE(c.prefix_cache);
  EXPECT_EQ(c.listen, "127.0.0.1:0");
  EXPECT_EQ(c.threads, 3);
  EXPECT_EQ(c.model_name, "other");
}

TEST(WorkerConfig, SwitchesThePrefixCacheOff) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--prefix-cache=false"}, &c), std::nullopt);
  EXPECT_FALSE(c.prefix_cache);
}

TEST(WorkerConfig, ReadsHowManyRowsAGraphMayHave) {
  WorkerConfig c;
  EXPECT_EQ(c.cuda_graph_rows, 256);
  ASSERT_EQ(Read({"--model", "m", "--cuda-graph-rows", "0"}, &c), std::nullopt);
  EXPECT_EQ(c.cuda_graph_rows, 0);
}

TEST(WorkerConfig, SaysWhyNoStepRunsAsAGraph) {
  const auto card = MakeTableDevice(emulation::EmulatedDevices(), 0);
  ASSERT_TRUE(card.ok()) << card.status();
  const auto why = [](const Device& device, const ModelInfo& info, int64_t ranks, int64_t rows) {
    WorkerConfig c;
    c.cpu_experts = "3";
    c.ranks = ranks;
    c.cuda_graph_rows = rows;
    return WhyNoGraphs(c, device, info);
  };
  const ModelInfo dense, experts{.num_experts = 8}, host{.num_experts = 8, .host_experts = true};
  EXPECT_EQ(why(**card, dense, 4, 256), "");
  EXPECT_EQ(why(**card, experts, 1, 256), "");
  EXPECT_THAT(why(**card, experts, 4, 256), HasSubstr("from rank to rank (--ranks 4)"));
  EXPECT_THAT(why(**card, host, 1, 256), HasSubstr("the CPU computes experts (--cpu-experts 3)"));
  EXPECT_EQ(why(**card, host, 4, 0), "") << "nobody wants them";
  EXPECT_EQ(why(HostDevice(), experts, 4, 256), "");
}

TEST(WorkerConfig, ReadsHowLongOneWaitForTheGpuMayTake) {
  WorkerConfig c;
  EXPECT_EQ(c.device_timeout, std::chrono::seconds(60));
  ASSERT_EQ(Read({"--model", "m", "--device-timeout", "200ms"}, &c), std::nullopt);
  EXPECT_EQ(c.device_timeout, std::chrono::milliseconds(200));
}

// Else a rank that waits for another would end, where the group is to form again.
TEST(WorkerConfig, WantsWaitsForTheGpuToOutlastThoseForOtherRanks) {
  const auto read = [](const char* device, const char* ranks, const char* collective) {
    WorkerConfig c;
    return Read({"--model", "m", "--device", device, "--ranks", ranks, "--collective-timeout",
                 collective, "--device-timeout", "60s"},
                &c);
  };
  EXPECT_EQ(read("cuda", "2", "60s"), 2);
  EXPECT_EQ(read("auto", "2", "60s"), 2);
  EXPECT_EQ(read("cuda", "2", "59s"), std::nullopt);
  EXPECT_EQ(read("cuda", "1", "60s"), std::nullopt);
  EXPECT_EQ(read("cpu", "2", "60s"), std::nullopt);
}

TEST(WorkerConfig, ReadsWhereExpertsMayLie) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--ranks", "2", "--redundant-experts", "3", "--expert-cover",
                  "--placement-steps", "10"},
                 &c),
            std::nullopt);
  EXPECT_EQ(c.redundant_experts, 3);
  EXPECT_TRUE(c.expert_cover);
  EXPECT_EQ(c.placement_steps, 10);
}

TEST(WorkerConfig, ReadsHowRowsGetFromGpuToGpu) {
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--device", "cuda", "--device-exchange", "nccl", "--slot-rows",
                  "8", "--slot-output-bytes", "4KiB", "--micro-batch-rows", "9"},
                 &c),
            std::nullopt);
  EXPECT_EQ(c.device_exchange, "nccl");
  const EngineOptions engine = EngineOptionsOf(c, RowPath::kDevice);
  EXPECT_EQ(engine.slots.rows, 8);
  EXPECT_EQ(engine.slots.output_bytes, 4096u);
  EXPECT_EQ(engine.micro_batch_rows, 9);
  EXPECT_EQ(engine.row_path, RowPath::kDevice);
}

TEST(WorkerConfig, WithExpertsOnTheCpuNoOutputsReturnInSlots) {
  WorkerConfig c;
  EXPECT_GT(EngineOptionsOf(c, RowPath::kDevice).slots.output_bytes, 0u);
  ASSERT_EQ(Read({"--model", "m", "--device", "cuda", "--cpu-experts", "auto"}, &c), std::nullopt);
  EXPECT_EQ(EngineOptionsOf(c, RowPath::kDevice).slots.output_bytes, 0u);
  EXPECT_EQ(EngineOptionsOf(c, RowPath::kDevice).slots.rows, 16);
}

TEST(WorkerConfig, MicroBatchesAreOfStepsThatDoNotGoInSlots) {
  EXPECT_THAT(Refusal({"--slot-rows", "8", "--micro-batch-rows", "8"}),
              AllOf(HasSubstr("--micro-batch-rows 8"), HasSubstr("up to 8 rows (--slot-rows)")));
  EXPECT_THAT(Refusal({"--micro-batch-rows", "16"}), HasSubstr("give more than that, or 0"));
  EXPECT_THAT(Refusal({"--step-tokens", "256", "--micro-batch-rows", "257"}),
              HasSubstr("no step has more than 256 rows (--step-tokens)"));
  WorkerConfig c;
  EXPECT_EQ(Read({"--model", "m", "--micro-batch-rows", "17"}, &c), std::nullopt);
  EXPECT_EQ(Read({"--model", "m", "--step-tokens", "256", "--micro-batch-rows", "256"}, &c),
            std::nullopt);
}

TEST(WorkerConfig, ReadsWhichExpertsTheCpuComputes) {
  const TempDir counts;
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--device", "cuda", "--cpu-path", "portable", "--cpu-experts",
                  "3", "--expert-hotness", "a", "--expert-hotness", "b", "--expert-counts",
                  counts.path().c_str()},
                 &c),
            std::nullopt);
  EXPECT_EQ(CpuExpertsOf(c), 3);
  EXPECT_EQ(c.expert_hotness, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.expert_counts, counts.path());
  WorkerConfig other;
  EXPECT_EQ(CpuExpertsOf(other), 0);
  ASSERT_EQ(Read({"--model", "m", "--device", "auto", "--cpu-experts", "auto"}, &other),
            std::nullopt);
  EXPECT_EQ(CpuExpertsOf(other), HostExpertOptions::kWhatDoesNotFit);
}

TEST(WorkerConfig, RowsInF8AreOfGpus) {
  EXPECT_THAT(Refusal({"--f8-rows", "--device", "cpu"}),
              AllOf(HasSubstr("--f8-rows: is for experts on a GPU"), HasSubstr("--device cuda")));
  for (const char* device : {"cuda", "auto"}) {
    WorkerConfig c;
    EXPECT_EQ(Read({"--model", "m", "--f8-rows", "--device", device}, &c), std::nullopt) << device;
    EXPECT_TRUE(c.f8_rows);
  }
}

TEST(WorkerConfig, CountsOfExpertsNeedADirectoryThatCanBeWritten) {
  const TempDir dir;
  const std::string missing = dir.path() + "/missing", file = dir.path() + "/file";
  std::ofstream(file) << "no directory";
  for (const std::string& path : {missing, file}) {
    EXPECT_THAT(Refusal({"--expert-counts", path.c_str()}),
                HasSubstr("--expert-counts " + path + ": there is no such directory; make it"));
  }
  if (geteuid() == 0) return;  // writes everywhere
  std::filesystem::permissions(dir.path(), std::filesystem::perms::owner_read);
  EXPECT_THAT(Refusal({"--expert-counts", dir.path().c_str()}), HasSubstr("cannot write into it"));
  std::filesystem::permissions(dir.path(), std::filesystem::perms::owner_all);
}

TEST(WorkerConfig, AStartThatIsTriedAgainLooksAtTheDirectoryOfCountsItself) {
  WorkerConfig c;
  EXPECT_EQ(Read({"--model", "m", "--retry-start", "1s", "--expert-counts", "/missing"}, &c),
            std::nullopt);
  EXPECT_FALSE(CheckExpertCountsFolder(c).ok());
}

TEST(WorkerConfig, NoExpertsOfTheCpuMayBeWrittenAnyHow) {
  for (const char* none : {"0", "00"}) {
    WorkerConfig c;
    EXPECT_EQ(Read({"--model", "m", "--ranks", "2", "--device", "cuda", "--redundant-experts", "1",
                    "--cpu-experts", none},
                   &c),
              std::nullopt)
        << none;
  }
}

TEST(WorkerConfig, WhatIsNoNumberOfExpertsIsToldByNameAndNothingElse) {
  for (const char* wrong : {"many", "1x", "-1", "", "5000"}) {
    EXPECT_THAT(Refusal({"--ranks", "2", "--device", "cuda", "--redundant-experts", "1",
                         "--cpu-experts", wrong}),
                AllOf(HasSubstr(fmt::format("--cpu-experts {}: must be auto, or a number", wrong)),
                      Not(HasSubstr("experts that move"))));
  }
}

TEST(WorkerConfig, RefusesWhatCannotBe) {
  const std::vector<std::vector<const char*>> cases = {
      {},
      {"--model", "m", "--rank", "2", "--ranks", "2", "--leader", "h:1"},
      {"--model", "m", "--rank", "1", "--ranks", "2"},
      {"--model", "m", "--rank", "1", "--ranks", "2", "--leader", "host"},
      {"--model", "m", "--rank", "1", "--ranks", "2", "--leader", "host:0"},
      {"--model", "m", "--cpu-path", "abacus"},
      {"--model", "m", "--device", "tpu"},
      {"--model", "m", "--device", "cuda", "--cpu-path", "portable"},
      {"--model", "m", "--device", "cuda", "--cuda-kernels", "fast"},
      {"--model", "m", "--cuda-kernels", "tensor"},
      {"--model", "m", "--device-exchange", "nccl"},
      {"--model", "m", "--device-exchange", "tcp"},
      {"--model", "m", "--kv-bytes", "1"},
      {"--model", "m", "--redundant-experts", "1"},
      {"--model", "m", "--ranks", "2", "--redundant-experts", "1", "--device", "cuda",
       "--cpu-experts", "1"},
      {"--model", "m", "--ranks", "2", "--expert-cover"},
      {"--model", "m", "--device", "cuda", "--cpu-experts", "many"},
      {"--model", "m", "--device", "cuda", "--cpu-experts", "-1"},
      {"--model", "m", "--cpu-experts", "1"},
      {"--model", "m", "--device", "cuda", "--expert-hotness", "file"},
      {"--model", "m", "--ranks", "2", "--placement-steps", "0"},
      {"--model", "m", "--cuda-graph-rows", "1025"},
      {"--model", "m", "--no-such-flag", "1"},
      {"--model", "m", "--group", "5000"},
  };
  for (const auto& flags : cases) {
    WorkerConfig c;
    EXPECT_EQ(Read(flags, &c), 2) << flags.size();
  }
}

TEST(WorkerConfig, ChecksAddressesBeyondLoopback) {
  const std::vector<std::vector<const char*>> cases = {
      {"--model", "m", "--insecure", "--advertise", "0.0.0.0:7100"},
      {"--model", "m", "--insecure", "--advertise", "here"},
      {"--model", "m", "--insecure", "--group-listen", "0.0.0.0"},
      {"--model", "m", "--insecure", "--heartbeat-timeout", "1ms"},
  };
  for (const auto& flags : cases) {
    WorkerConfig c;
    EXPECT_EQ(Read(flags, &c), 2) << flags.back();
  }
  WorkerConfig c;
  EXPECT_EQ(Read({"--model", "m", "--insecure", "--listen", "0.0.0.0:7100", "--advertise",
                  "a.b:7100", "--group-listen", "a.b", "--heartbeat-timeout", "2s"},
                 &c),
            std::nullopt);
}

// The variables live as long as the object.
class Environment {
 public:
  explicit Environment(std::vector<std::pair<const char*, const char*>> set) : set_(set) {
    for (const auto& [name, value] : set_) setenv(name, value, 1);
  }
  ~Environment() {
    for (const auto& [name, value] : set_) unsetenv(name);
  }

 private:
  const std::vector<std::pair<const char*, const char*>> set_;
};

TEST(WorkerConfig, LeaderWorkerSetsEnvironmentGivesDefaults) {
  const Environment lws({{"LWS_LEADER_ADDRESS", "choir-3.choir.default"},
                         {"LWS_GROUP_SIZE", "4"},
                         {"LWS_WORKER_INDEX", "2"}});
  WorkerConfig c;
  ASSERT_EQ(Read({"--model", "m", "--insecure", "--listen", "0.0.0.0:7200"}, &c), std::nullopt);
  EXPECT_EQ(c.leader, "choir-3.choir.default:7200");
  EXPECT_EQ(c.group, 3);
  EXPECT_EQ(c.ranks, 4);
  EXPECT_EQ(c.rank, 2);
  c = {};
  ASSERT_EQ(Read({"--model", "m", "--insecure", "--listen", "0.0.0.0:7200", "--leader", "x:1",
                  "--rank", "1"},
                 &c),
            std::nullopt);
  EXPECT_EQ(c.leader, "x:1") << "what is given wins";
  EXPECT_EQ(c.rank, 1);
  c = {};
  EXPECT_EQ(Read({"--model", "m", "--insecure"}, &c), 2) << "other pods cannot reach loopback";
}

TEST(WorkerConfig, ABrokenLeaderWorkerSetEnvironmentIsRefused) {
  for (const char* size : {"", "four", "-1", "65", "4x"}) {
    const Environment lws(
        {{"LWS_LEADER_ADDRESS", "choir"}, {"LWS_GROUP_SIZE", size}, {"LWS_WORKER_INDEX", "0"}});
    WorkerConfig c;
    EXPECT_EQ(Read({"--model", "m", "--insecure", "--listen", "0.0.0.0:7200"}, &c), 2) << size;
  }
}

}  // namespace
}  // namespace choir
