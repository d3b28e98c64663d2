#include "common/config/state_dir.h"

#include "common/base/environment.h"

namespace choir {

std::string DefaultStateDir() {
  const std::string base = Environment("XDG_STATE_HOME");
  if (!base.empty()) return base + "/choir";
  const std::string home = Environment("HOME");
  return (home.empty() ? "/var/lib" : home + "/.local/state") + "/choir";
}

}  // namespace choir
