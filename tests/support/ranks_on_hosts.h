// The ranks of one group as threads of one process that behave as if they ran on several hosts:
// ranks of one host share memory, the others reach each other over sockets.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "worker/comm/exchange_setup.h"

namespace choir {

// Rank r on host hosts[r]. Each sets itself up on a thread of its own, as processes do.
inline std::vector<std::unique_ptr<Collectives>> MakeRanksOnHosts(
    const std::vector<std::string>& hosts, uint64_t generation, const CollectivesOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  std::vector<std::unique_ptr<ExchangeSetup>> setups;
  std::vector<ExchangeEndpoint> endpoints;
  for (size_t r = 0; r < hosts.size(); ++r) {
    auto setup = ExchangeSetup::Open(
        {.rank = static_cast<int>(r),
         .generation = generation,
         .hosts = hosts,
         .pids = std::vector<int64_t>(hosts.size(), getpid()),
         .mesh_address = []() -> StatusOr<std::string> { return std::string("127.0.0.1"); },
         .collectives = options});
    CHOIR_CHECK(setup.ok());
    endpoints.push_back((*setup)->endpoint());
    setups.push_back(std::move(*setup));
  }
  std::vector<std::unique_ptr<Collectives>> connected(hosts.size());
  std::vector<std::jthread> threads;
  for (size_t r = 0; r < hosts.size(); ++r) {
    threads.emplace_back([&, r] {
      auto joined = setups[r]->Connect(endpoints);
      CHOIR_CHECK(joined.ok());
      connected[r] = std::move(*joined);
    });
  }
  threads.clear();  // joins
  return connected;
}

// The hosts of `num_ranks` ranks, by rank. Next to each other: `per_host` ranks a host, one after
// the other. In turn: `num_hosts` hosts get one rank each, again and again.
inline std::vector<std::string> HostsNextToEachOther(int num_ranks, int per_host) {
  std::vector<std::string> hosts;
  for (int r = 0; r < num_ranks; ++r) hosts.push_back(fmt::format("host{}", r / per_host));
  return hosts;
}
inline std::vector<std::string> HostsInTurn(int num_ranks, int num_hosts) {
  std::vector<std::string> hosts;
  for (int r = 0; r < num_ranks; ++r) hosts.push_back(fmt::format("host{}", r % num_hosts));
  return hosts;
}

}  // namespace choir
