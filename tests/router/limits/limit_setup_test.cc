#include "router/limits/limit_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "tests/support/temp_dir.h"
#include "tests/support/test_authority.h"

namespace choir {
namespace {

class RedisUrlFileTest : public testing::Test {
 protected:
  RedisOptions With(const std::string& text) {
    std::ofstream(dir_.path() + "/url") << text;
    return {.url_file = dir_.path() + "/url"};
  }
  TempDir dir_;
};

TEST_F(RedisUrlFileTest, TheUrlIsReadWithoutItsLineEnd) {
  RedisOptions redis = With("redis://:secret@db:6379/0\r\n");
  ASSERT_TRUE(ReadRedisUrlFile(&redis).ok());
  EXPECT_EQ(redis.url, "redis://:secret@db:6379/0");
}

TEST_F(RedisUrlFileTest, WithoutAFileNothingChanges) {
  RedisOptions redis{.url = "redis://db"};
  ASSERT_TRUE(ReadRedisUrlFile(&redis).ok());
  EXPECT_EQ(redis.url, "redis://db");
}

TEST_F(RedisUrlFileTest, WhatCannotBeIsRefusedAndTheSecretIsNotTold) {
  RedisOptions both = With("redis://:secret@db");
  both.url = "redis://other";
  EXPECT_THAT(MessageOf(ReadRedisUrlFile(&both)), testing::HasSubstr("give one of them"));
  RedisOptions empty = With(" \n");
  EXPECT_THAT(MessageOf(ReadRedisUrlFile(&empty)), testing::HasSubstr("is empty"));
  RedisOptions missing{.url_file = dir_.path() + "/none"};
  EXPECT_THAT(MessageOf(ReadRedisUrlFile(&missing)),
              testing::HasSubstr("redis.url_file: there is no " + missing.url_file + "; write"));
  RedisOptions large = With("redis://:secret@" + std::string(5000, 'x'));
  const std::string error = MessageOf(ReadRedisUrlFile(&large));
  EXPECT_NE(error, "");
  EXPECT_THAT(error, testing::Not(testing::HasSubstr("secret")));
}

class RedisOptionsTest : public testing::Test {
 protected:
  // The exit code; nullopt: the start goes on.
  std::optional<int> Parse(std::vector<const char*> args) {
    OptionSet set("choir-test", "A test.", "router");
    RedisOptions redis;
    const TlsOptions own;
    Duration retry_start{};
    set.AddRetryStart(&retry_start);
    AddRedisOptions(&redis, &own, &set);
    args.insert(args.begin(), {"choir-test", "--config", config_.c_str()});
    testing::internal::CaptureStderr();
    const auto code = set.Parse(static_cast<int>(args.size()), args.data());
    errors_ = testing::internal::GetCapturedStderr();
    return code;
  }
  void Write(const std::string& redis) {
    std::ofstream(config_) << "router: {redis: " << redis << "}";
  }

  const TempDir dir_;
  const std::string config_ = dir_.path() + "/config.yaml";
  std::string errors_;
};

TEST_F(RedisOptionsTest, FilesThatMayComeLaterAreLeftToTheStart) {
  Write("{url: 'rediss://db', ca: /none/ca.pem}");
  EXPECT_EQ(Parse({"--retry-start", "1s"}), std::nullopt) << errors_;
  EXPECT_EQ(Parse({}), 2);
  EXPECT_EQ(Parse({"--retry-start", "1s", "--check-config"}), 2);
  EXPECT_EQ(errors_.find("/none/ca.pem"), errors_.rfind("/none/ca.pem"));  // told once
  Write("{url_file: /none/url}");
  EXPECT_EQ(Parse({"--retry-start", "1s"}), std::nullopt) << errors_;
  EXPECT_EQ(Parse({}), std::nullopt) << errors_;
  EXPECT_EQ(Parse({"--check-config"}), 2);
  EXPECT_THAT(errors_, testing::HasSubstr("redis.url_file: there is no /none/url"));
}

TEST_F(RedisOptionsTest, WhatNoFileCanMendIsRefusedAtOnce) {
  for (const char* const redis :
       {"{url: 'redis://far'}", "{ca: ca.pem}", "{url: 'redis://[::1]', url_file: u}"}) {
    Write(redis);
    EXPECT_EQ(Parse({"--retry-start", "1s"}), 2) << redis;
    EXPECT_EQ(std::count(errors_.begin(), errors_.end(), '\n'), 1) << errors_;
  }
}

std::string Refusal(const RedisOptions& redis, const TlsOptions& own = {}) {
  return MessageOf(CheckRedis(redis, own));
}

TEST(CheckRedisTest, PlainTextStaysOnThisMachineUnlessItIsAskedFor) {
  EXPECT_EQ(Refusal({}), "");
  for (const char* const near : {"redis://:p@127.0.0.1:1", "redis://[::1]", "redis://localhost"}) {
    EXPECT_EQ(Refusal({.url = near}), "") << near;
  }
  for (const char* const far :
       {"redis://:secret@10.0.0.7", "redis://db:7/1", "redis://[fd00::1]"}) {
    RedisOptions redis{.url = far};
    EXPECT_THAT(Refusal(redis), testing::HasSubstr("rediss://")) << far;
    EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-insecure")) << far;
    EXPECT_THAT(Refusal(redis), testing::Not(testing::HasSubstr("secret"))) << far;
    EXPECT_EQ(Refusal(redis, {.insecure = true}), "") << far;
    redis.tls.insecure = true;
    EXPECT_EQ(Refusal(redis), "") << far;
  }
  EXPECT_EQ(Refusal({.url = "rediss://:secret@db"}), "");
}

TEST(CheckRedisTest, FilesOfTlsAreReadAndEachErrorNamesItsOption) {
  const TestAuthority authority;
  const TlsOptions files = authority.Place("router");
  RedisOptions redis{.url = "rediss://db"};
  redis.tls.ca = files.ca;
  EXPECT_EQ(Refusal(redis), "");
  redis.tls.cert = files.cert;
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-cert, --redis-key: give both"));
  redis.tls.key = files.key;
  EXPECT_EQ(Refusal(redis), "");
  redis.tls.key = authority.Place("other").key;
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-key " + redis.tls.key + ": does not"));
  redis.tls.key = files.key;
  redis.tls.cert = authority.Path("none.pem");
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-cert"));
  const TlsOptions old = authority.Place("old", authority.Issue("router", -100, -50));
  redis.tls.cert = old.cert;
  redis.tls.key = old.key;
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-cert " + old.cert + ": expired on"));
  redis.tls = RedisOptions().tls;
  authority.Write("empty.pem", "");
  redis.tls.ca = authority.Path("empty.pem");
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("--redis-ca " + redis.tls.ca + ": holds no PEM"));
}

TEST(CheckRedisTest, FilesOfTlsAreForTlsOnly) {
  RedisOptions redis{.url = "redis://127.0.0.1"};
  redis.tls.ca = "ca.pem";
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("rediss://"));
  redis.url = "";
  EXPECT_THAT(Refusal(redis), testing::HasSubstr("redis.url: missing"));
}

}  // namespace
}  // namespace choir
