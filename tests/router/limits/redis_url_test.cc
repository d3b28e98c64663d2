#include "router/limits/redis/redis_url.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(RedisUrlTest, ReadsEveryPart) {
  const auto all = ParseRedisUrl("redis://me:p%40ss%3a/w@db.example:7000/3");
  ASSERT_TRUE(all.ok()) << MessageOf(all.status());
  EXPECT_EQ(all->host, "db.example");
  EXPECT_EQ(all->port, 7000);
  EXPECT_EQ(all->user, "me");
  EXPECT_EQ(all->password, "p@ss:/w");
  EXPECT_EQ(all->db, 3);
  EXPECT_EQ(all->Name(), "db.example:7000/3");
}

TEST(RedisUrlTest, WhatIsAbsentHasADefault) {
  const auto bare = ParseRedisUrl("redis://127.0.0.1");
  ASSERT_TRUE(bare.ok());
  EXPECT_EQ(bare->Name(), "127.0.0.1:6379/0");
  const auto password = ParseRedisUrl("redis://:secret@[::1]:1/");
  ASSERT_TRUE(password.ok()) << MessageOf(password.status());
  EXPECT_EQ(password->host, "::1");
  EXPECT_EQ(password->Name(), "[::1]:1/0");
  EXPECT_EQ(password->user, "");
  EXPECT_EQ(password->password, "secret");
}

TEST(RedisUrlTest, TwoSchemesSayWhetherItIsTls) {
  EXPECT_FALSE(ParseRedisUrl("redis://h")->tls);
  const auto tls = ParseRedisUrl("rediss://:secret@h:7/1");
  ASSERT_TRUE(tls.ok()) << MessageOf(tls.status());
  EXPECT_TRUE(tls->tls);
  EXPECT_EQ(tls->Name(), "h:7/1");
}

TEST(RedisUrlTest, ErrorsSayWhatIsWrongAndNeverTheSecret) {
  for (const auto& [url, says] : {std::pair{"http://:secret@h", "redis://"},
                                  {"redis://:secret@h:0", "port"},
                                  {"redis://:secret@h:x", "port"},
                                  {"redis://:secret@h:65536", "port"},
                                  {"redis://:secret@h/x", "database"},
                                  {"redis://:secret@h/-1", "database"},
                                  {"redis://:secret@", "host"},
                                  {"redis://:secret%zz@h", "hex"},
                                  {"redis://:secret%4@h", "hex"},
                                  {"redis:secret@h", "redis://"},
                                  {"", "rediss://"}}) {
    const std::string message = MessageOf(ParseRedisUrl(url).status());
    EXPECT_NE(message.find(says), std::string::npos) << url << ": " << message;
    EXPECT_EQ(message.find("secret"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace choir
