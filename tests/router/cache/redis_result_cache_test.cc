// Answers kept in a real Redis.
#include "router/cache/redis_result_cache.h"

#include <gtest/gtest.h>

#include "router/limits/redis/redis_connection.h"
#include "tests/support/redis_server.h"
#include "tests/support/task_inbox.h"
#include "tests/support/test_authority.h"

namespace choir {
namespace {

class RedisResultCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = RedisServer::Start();
    if (server_ == nullptr) GTEST_SKIP() << "there is no redis-server here";
    cache_ = Make("");
    ASSERT_TRUE(inbox_.RunUntil([&] { return cache_->state().problem.empty(); }));
  }
  std::unique_ptr<ResultCache> Make(const std::string& prefix, const TlsOptions& tls = {}) {
    RedisConnectionOptions options{.address = *ParseRedisUrl(server_->url()),
                                   .tls = tls,
                                   .script = kResultScript,
                                   .timeout = std::chrono::seconds(30)};
    return MakeRedisResultCache("redis", prefix, std::chrono::minutes(1), 1000,
                                ConnectToRedis(options, inbox_.post()));
  }
  std::optional<KnownAnswer> Find(ResultCache& cache, const ResultKey& key) {
    std::optional<KnownAnswer> found;
    bool answered = false;
    cache.Find(key, [&](std::optional<KnownAnswer> known) {
      found = std::move(known);
      answered = true;
    });
    EXPECT_TRUE(inbox_.RunUntil([&] { return answered; }));
    return found;
  }

  std::unique_ptr<RedisServer> server_;
  TaskInbox inbox_;
  std::unique_ptr<ResultCache> cache_;
  const ResultKey key_ = Sha256Of("question");
};

TEST_F(RedisResultCacheTest, AnotherRouterKnowsTheAnswer) {
  const KnownAnswer answer = {{{1, 2, 3}, "stop"}, {{}, "length"}};
  EXPECT_FALSE(Find(*cache_, key_));
  cache_->Put(key_, answer);
  EXPECT_EQ(Find(*cache_, key_), answer);
  const auto other = Make("");
  ASSERT_TRUE(inbox_.RunUntil([&] { return other->state().problem.empty(); }));
  EXPECT_EQ(Find(*other, key_), answer);
  const auto apart = Make("apart:");
  ASSERT_TRUE(inbox_.RunUntil([&] { return apart->state().problem.empty(); }));
  EXPECT_FALSE(Find(*apart, key_));
}

TEST_F(RedisResultCacheTest, LeavesOutWhatIsTooLong) {
  cache_->Put(key_, {{std::vector<int32_t>(1000, 70000), "stop"}});
  EXPECT_FALSE(Find(*cache_, key_));
}

TEST_F(RedisResultCacheTest, ALostRedisKnowsNothing) {
  cache_->Put(key_, {{{1}, "stop"}});
  EXPECT_TRUE(Find(*cache_, key_));
  server_->Kill();
  ASSERT_TRUE(inbox_.RunUntil([&] { return !cache_->state().problem.empty(); }));
  EXPECT_FALSE(Find(*cache_, key_));
  cache_->Put(key_, {{{1}, "stop"}});
  ASSERT_TRUE(server_->Restart());
  ASSERT_TRUE(inbox_.RunUntil([&] { return cache_->state().problem.empty(); }));
  EXPECT_FALSE(Find(*cache_, key_)) << "it lost its data";
  cache_->Put(key_, {{{1}, "stop"}});
  EXPECT_TRUE(Find(*cache_, key_));
}

TEST_F(RedisResultCacheTest, AnswersAreKeptOverTls) {
  const TestAuthority authority;
  const TlsOptions files = authority.Place("redis");
  server_ = RedisServer::Start(
      RedisServerTls{.cert = files.cert, .key = files.key, .ca = files.ca, .demand_client = true});
  ASSERT_NE(server_, nullptr);
  cache_ = Make("", files);
  ASSERT_TRUE(inbox_.RunUntil([&] { return cache_->state().problem.empty(); }))
      << cache_->state().problem;
  const KnownAnswer answer = {{{1, 2, 3}, "stop"}};
  cache_->Put(key_, answer);
  EXPECT_EQ(Find(*cache_, key_), answer);
}

}  // namespace
}  // namespace choir
