// redis://[user][:password]@host[:port][/db], password and user percent-encoded. Pure.
#pragma once

#include <string>

#include "common/base/status.h"

namespace choir {

struct RedisAddress {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string user;      // empty: Redis' default user
  std::string password;  // empty: no AUTH
  int db = 0;

  std::string Name() const { return fmt::format("{}:{}/{}", host, port, db); }  // no secret
};

// Errors never quote the URL: it may hold a password.
StatusOr<RedisAddress> ParseRedisUrl(const std::string& url);

}  // namespace choir
