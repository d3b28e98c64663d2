// Which address of this machine the ranks of other hosts connect to.
#pragma once

#include <string>

#include "common/base/status.h"

namespace choir {

struct MeshAddressHints {    // the first that says something counts
  std::string group_listen;  // a name or address of this machine, or ""
  std::string advertise;     // host:port by which this rank is reached, or ""
  std::string listen;        // host:port of its server; a wildcard says nothing
  std::string leader;        // host:port of rank 0; says by which way it is reached; or ""
};

// Numeric. NotFound, with the option that helps, when no hint gives an address of this machine.
StatusOr<std::string> MeshAddress(const MeshAddressHints& hints);

// The first of the addresses of `host`, a name or a number, that is this machine's; numeric.
// NotFound.
StatusOr<std::string> OwnAddress(const std::string& host);
// "eth0": the interface that has a numeric address; "" when none has.
std::string InterfaceOf(const std::string& address);
// "127.0.0.1", "::1", "localhost": reachable from this machine only.
bool IsLoopbackHost(const std::string& host);
// "0.0.0.0", "::", "[::]", "*" or "": every address of this machine.
bool IsWildcard(const std::string& host);
// The host of "host:port" or "[v6]:port", without brackets.
std::string HostOf(const std::string& host_and_port);

}  // namespace choir
