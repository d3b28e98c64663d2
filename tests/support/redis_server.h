// A Redis server of a test's own: a child process on a free port of this machine, empty, with a
// password that only this test knows.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

namespace choir {

class RedisServer {
 public:
  // Null: there is no redis-server on this machine.
  static std::unique_ptr<RedisServer> Start();
  ~RedisServer();

  std::string url() const;
  // Ends it at once, and begins anew without its data on the same port.
  void Kill();
  bool Restart() { return Spawn(); }
  // Neither reads nor answers until Continue.
  void Pause();
  void Continue();

 private:
  RedisServer() = default;
  bool Spawn();

  int port_ = 0;
  std::string password_;
  pid_t pid_ = -1;
};

}  // namespace choir
