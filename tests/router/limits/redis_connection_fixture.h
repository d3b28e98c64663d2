// One connection to a Redis whose comings and goings are counted.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "router/limits/redis/redis_connection.h"
#include "tests/support/task_inbox.h"

namespace choir {

class RedisConnectionFixture : public testing::Test {
 protected:
  // Ends the one before.
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

}  // namespace choir
