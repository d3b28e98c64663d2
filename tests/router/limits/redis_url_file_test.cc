#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "router/limits/limit_setup.h"
#include "tests/support/temp_dir.h"

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
  EXPECT_THAT(MessageOf(ReadRedisUrlFile(&missing)), testing::HasSubstr("none"));
  RedisOptions large = With("redis://:secret@" + std::string(5000, 'x'));
  const std::string error = MessageOf(ReadRedisUrlFile(&large));
  EXPECT_NE(error, "");
  EXPECT_THAT(error, testing::Not(testing::HasSubstr("secret")));
}

}  // namespace
}  // namespace choir
