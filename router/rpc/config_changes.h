// Tells of keys in the configuration file that were changed since the router started, though only a
// start takes them up. One thread.
#pragma once

#include <string>
#include <vector>

namespace choir {

class ConfigChanges {
 public:
  explicit ConfigChanges(std::string file);  // as it is now
  // What the file says now, which is good: a line in the log, once for the same changes. Returns
  // the keys.
  const std::vector<std::string>& OnRead(const std::string& text);

 private:
  std::string file_, at_start_;
  std::vector<std::string> told_;
};

// "router.max_requests" and the like, in alphabetical order; of lists and of what is nested in them
// the list's key. Texts that are no YAML have no keys. Pure.
std::vector<std::string> KeysForTheNextStart(const std::string& at_start, const std::string& now);

}  // namespace choir
