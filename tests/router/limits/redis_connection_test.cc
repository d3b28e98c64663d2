#include "router/limits/redis/redis_connection.h"

#include <gtest/gtest.h>

#include <boost/asio/ip/tcp.hpp>
#include <optional>

#include "tests/router/limits/redis_connection_fixture.h"
#include "tests/support/redis_server.h"

namespace choir {
namespace {

using RedisConnectionTest = RedisConnectionFixture;

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

// A server that takes connections and says nothing, as one does that hangs.
class SilentServer {
 public:
  SilentServer() : acceptor_(io_, {boost::asio::ip::address_v4::loopback(), 0}) {}
  RedisAddress address(bool tls) const {
    return {.tls = tls, .host = "127.0.0.1", .port = acceptor_.local_endpoint().port()};
  }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
};

TEST_F(RedisConnectionTest, AServerThatSaysNothingIsGivenUp) {
  const SilentServer server;
  for (const bool tls : {false, true}) {
    downs_ = 0;
    Connect({.address = server.address(tls), .timeout = std::chrono::milliseconds(5)});
    ASSERT_TRUE(inbox_.RunUntil([this] { return downs_ == 2; }));
    EXPECT_NE(why_.find("within 0.05 s"), std::string::npos) << why_;
  }
}

TEST_F(RedisConnectionTest, EndsAtOnceBesideAServerThatSaysNothing) {
  const SilentServer server;
  for (const bool tls : {false, true}) {
    Connect({.address = server.address(tls), .timeout = std::chrono::hours(1)});
    connection_.reset();
  }
}

TEST_F(RedisConnectionTest, WhatWasGivenBeforeTheEndIsDone) {
  const auto server = RedisServer::Start();
  if (server == nullptr) GTEST_SKIP() << "there is no redis-server here";
  const RedisConnectionOptions options{
      .address = *ParseRedisUrl(server->url()),
      .script = "return {tostring(redis.call('INCRBY', KEYS[1], ARGV[1]))}",
      .timeout = std::chrono::seconds(30)};
  Connect(options);
  ASSERT_TRUE(inbox_.RunUntil([this] { return ups_ == 1; }));
  for (int i = 0; i < 100; ++i) connection_->Run({{"sum"}, {"1"}}, [](const auto&) {});
  connection_.reset();
  Connect(options);
  ASSERT_TRUE(inbox_.RunUntil([this] { return ups_ == 2; }));
  std::optional<std::string> sum;
  connection_->Run({{"sum"}, {"0"}}, [&](const auto& answer) { sum = answer->front(); });
  ASSERT_TRUE(inbox_.RunUntil([&] { return sum.has_value(); }));
  EXPECT_EQ(*sum, "100");
}

TEST_F(RedisConnectionTest, AWrongPasswordIsToldApart) {
  const auto server = RedisServer::Start();
  if (server == nullptr) GTEST_SKIP() << "there is no redis-server here";
  RedisConnectionOptions options{.address = *ParseRedisUrl(server->url()),
                                 .script = "return {}",
                                 .timeout = std::chrono::seconds(30)};
  options.address.password = "wrong";
  Connect(std::move(options));
  ASSERT_TRUE(inbox_.RunUntil([this] { return downs_ > 0; }));
  EXPECT_NE(why_.find("WRONGPASS"), std::string::npos) << why_;
}

}  // namespace
}  // namespace choir
