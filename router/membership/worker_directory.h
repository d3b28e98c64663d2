// Follows where the workers are: entries as they are configured, and for each "dns:name:port" among
// them all addresses of the name, looked up again and again, so that workers join and leave without
// a restart (a headless service of Kubernetes). A name that does not exist has no addresses; one
// that cannot be looked up keeps those it had.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

// "10.0.0.7:7100" or "[fd00::7]:7100" for every address of the name: the IPv4 ones, or, where there
// are none, the IPv6 ones (a worker with both is one worker). NotFound: there is no such name;
// Unavailable: it could not be looked up. Blocks as long as the resolver of the system does.
StatusOr<std::vector<std::string>> LookUpWorkers(const std::string& name, const std::string& port);

class WorkerDirectory {
 public:
  using LookUp = std::function<StatusOr<std::vector<std::string>>(const std::string& name,
                                                                  const std::string& port)>;
  // `on_change` is called on the directory's thread with all addresses, sorted, whenever they
  // changed.
  WorkerDirectory(Duration interval, LookUp look_up,
                  std::function<void(const std::vector<std::string>&)> on_change);
  ~WorkerDirectory();  // waits for a look-up that runs

  // From now on these entries; checked with CheckWorkerAddress. Any thread.
  void SetEntries(std::vector<std::string> entries);

 private:
  void Run();
  std::vector<std::string> Resolve(const std::vector<std::string>& entries);
  const std::vector<std::string>& AddressesOf(const std::string& entry);

  const Duration interval_;
  const LookUp look_up_;
  const std::function<void(const std::vector<std::string>&)> on_change_;

  std::mutex mu_;  // guards the next three
  std::condition_variable changed_;
  std::optional<std::vector<std::string>> new_entries_;
  bool stop_ = false;

  // The thread's.
  struct Name {
    std::vector<std::string> addresses;
    std::string error;  // of the last look-up
  };
  std::map<std::string, Name> names_;  // by entry
  std::thread thread_;
};

}  // namespace choir
