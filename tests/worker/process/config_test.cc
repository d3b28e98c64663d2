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
                  "--leader", "h:1"},
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
  EXPECT_EQ(c.listen, "127.0.0.1:0");
  EXPECT_EQ(c.threads, 3);
  EXPECT_EQ(c.model_name, "other");
}

TEST(WorkerConfig, RefusesWhatCannotBe) {
  const std::vector<std::vector<const char*>> cases = {
      {},
      {"--model", "m", "--rank", "2", "--ranks", "2", "--leader", "h:1"},
      {"--model", "m", "--rank", "1", "--ranks", "2"},
      {"--model", "m", "--rank", "1", "--ranks", "2", "--leader", "host"},
      {"--model", "m", "--rank", "1", "--ranks", "2", "--leader", "host:0"},
      {"--model", "m", "--cpu-path", "abacus"},
      {"--model", "m", "--kv-bytes", "1"},
      {"--model", "m", "--no-such-flag", "1"},
      {"--model", "m", "--group", "5000"},
  };
  for (const auto& flags : cases) {
    WorkerConfig c;
    EXPECT_EQ(Read(flags, &c), 2) << flags.size();
  }
}

}  // namespace
}  // namespace choir
