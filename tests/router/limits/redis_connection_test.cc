#include "router/limits/redis/redis_connection.h"

#include <gtest/gtest.h>

#include <optional>

#include "tests/support/redis_server.h"
#include "tests/support/task_inbox.h"

namespace choir {
namespace {

class RedisConnectionTest : public testing::Test {
 protected:
  void Connect(RedisConnectionOptions options) {
    connection_ = ConnectToRedis(std::move(options), inbox_.post());
    connection_->SetEvents({.up = [this] { ++ups_; },
                            .down =
                                [this](const std::string& why) {
                                  ++downs_;
                                  why_ = why;
                                },
                            .tick = [] {}});
  }

  TaskInbox inbox_;
  int ups_ = 0, downs_ = 0;
  std::string why_;  // of the last loss
  std::unique_ptr<ScriptRunner> connection_;
};

TEST_F(RedisConnectionTest, TriesAgainWhereConnectingFailsAtOnce) {
  RedisConnectionOptions options{.retry_max = std::chrono::milliseconds(50)};
  options.address = {.host = "255.255.255.255", .port = 6379};  // no route, and no wait for one
  Connect(std::move(options));
  EXPECT_TRUE(inbox_.RunUntil([this] { return downs_ == 3; }));
  EXPECT_NE(why_, "");
}

TEST_F(RedisConnectionTest, StartsAnewAfterTooManyCalls) {
  const auto server = RedisServer::Start();
  if (server == nullptr) GTEST_SKIP() << "there is no redis-server here";
  Connect({.address = *ParseRedisUrl(server->url()),
           .script = "return {}",
           .timeout = std::chrono::seconds(30),
           .pending_max = 0});
  ASSERT_TRUE(inbox_.RunUntil([this] { return ups_ == 1; }));
  std::optional<Status> status;
  connection_->Run({}, [&](const auto& reply) { status = reply.status(); });
  ASSERT_TRUE(inbox_.RunUntil([this] { return ups_ == 2; }));
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(downs_, 1);
  EXPECT_NE(why_.find("too many"), std::string::npos) << why_;
}

}  // namespace
}  // namespace choir
