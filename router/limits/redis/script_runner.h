// Runs one script on a server that may be slow, gone or back. The seam between the count in Redis
// (redis_backend.h) and its sockets. Owned by the backend. Owner thread; answers come on it, in the
// order of the calls.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "router/limits/redis/limit_script.h"

namespace choir {

class ScriptRunner {
 public:
  virtual ~ScriptRunner() = default;
  using Done = std::function<void(StatusOr<std::vector<std::string>>)>;
  // `up`: a fresh connection stands and the script is loaded. `down`: it is lost, every call that
  // was under way has had its error. `tick`: from time to time while it stands. Set once, before
  // the first Run.
  struct Events {
    std::function<void()> up;
    std::function<void(const std::string& why)> down;
    std::function<void()> tick;
  };
  virtual void SetEvents(Events events) = 0;
  // An error when the server cannot be reached, does not answer in time or has an error itself; the
  // connection then starts anew.
  virtual void Run(ScriptCall call, Done done) = 0;
  // The server answers nonsense: the connection starts anew.
  virtual void Restart(const std::string& why) = 0;
};

}  // namespace choir
