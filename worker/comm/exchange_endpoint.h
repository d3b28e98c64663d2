// Where the others find a rank's side of an epoch's collectives. A plain value, opaque to those who
// pass it on.
#pragma once

#include <string>

namespace choir {

struct ExchangeEndpoint {
  std::string segment;  // shared memory, made by the lowest rank of each host; else ""
  std::string mesh;     // sockets, of ranks of a group on several hosts; else ""
  bool operator==(const ExchangeEndpoint&) const = default;
};

}  // namespace choir
