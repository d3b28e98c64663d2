#include "worker/config.h"

#include <gtest/gtest.h>

#include <vector>

namespace choir {
namespace {

std::optional<int> Read(std::vector<const char*> flags, WorkerConfig* config) {
  flags.insert(flags.begin(), "choir-worker");
  return ReadWorkerConfig(static_cast<int>(flags.size()), flags.data(), config);
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
      {"--model", "m", "--kv-bytes", "1"},
      {"--model", "m", "--redundant-experts", "1"},
      {"--model", "m", "--ranks", "2", "--redundant-experts", "1", "--device", "auto"},
      {"--model", "m", "--ranks", "2", "--expert-cover"},
      {"--model", "m", "--ranks", "2", "--placement-steps", "0"},
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
