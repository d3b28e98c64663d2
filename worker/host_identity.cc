#include "worker/host_identity.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

namespace choir {
namespace {

std::string LinkTo(const char* path) {
  char text[64] = {};
  return readlink(path, text, sizeof text - 1) > 0 ? text : "?";
}

}  // namespace

std::string MachineIdentity() {
  std::string boot = "?";
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return boot;
}

std::string HostIdentity() {
  const std::string boot = MachineIdentity();
  char host[256] = {};
  (void)gethostname(host, sizeof host - 1);
  return fmt::format("{} (boot {}, {}, {}, user {})", host, boot.substr(0, 8),
                     LinkTo("/proc/self/ns/pid"), LinkTo("/proc/self/ns/net"), getuid());
}

}  // namespace choir
