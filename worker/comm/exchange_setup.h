// Sets up one rank's collectives for an epoch, in two steps, between which the ranks tell each
// other their endpoints: Open makes this rank's, Connect joins all of them. Ranks of one host share
// memory; between hosts bytes go over a mesh of sockets. Keep the object until every rank has
// connected.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/comm/collectives.h"
#include "worker/comm/exchange_endpoint.h"
#include "worker/comm/gloo_mesh.h"
#include "worker/comm/shm_collectives.h"

namespace choir {

struct ExchangeOptions {
  int rank = 0;
  uint64_t generation = 0;
  std::vector<std::string> hosts;  // by rank; equal: can share memory
  std::vector<int64_t> pids;       // by rank
  // This machine's numeric address for ranks of other hosts; asked only when there are any.
  std::function<StatusOr<std::string>()> mesh_address;
  Duration connect_timeout = std::chrono::seconds(10);
  CollectivesOptions collectives;
  // May put collectives of devices beside those of the hosts, with all ranks; an error is their
  // death. Empty: it does not.
  std::function<Status(std::unique_ptr<Collectives>*)> join_devices;
};

class ExchangeSetup {
 public:
  static StatusOr<std::unique_ptr<ExchangeSetup>> Open(ExchangeOptions options);

  const ExchangeEndpoint& endpoint() const { return endpoint_; }
  // Once; `endpoints` by rank. Waits for ranks of other hosts.
  StatusOr<std::unique_ptr<Collectives>> Connect(const std::vector<ExchangeEndpoint>& endpoints);
  void GiveUp();  // any thread: a Connect that runs ends soon

 private:
  explicit ExchangeSetup(ExchangeOptions options) : options_(std::move(options)) {}
  Status OpenAll();
  StatusOr<std::unique_ptr<Collectives>> ConnectHosts(
      const std::vector<ExchangeEndpoint>& endpoints);
  StatusOr<std::unique_ptr<Collectives>> JoinLocal(const std::vector<ExchangeEndpoint>& endpoints);

  const ExchangeOptions options_;
  std::vector<int> locals_, remotes_;
  ExchangeEndpoint endpoint_;
  std::unique_ptr<ShmSegment> segment_;  // at the lowest rank of the host
  std::unique_ptr<GlooMesh> mesh_;       // until Connect has given it away
  std::mutex mu_;                        // guards against GiveUp: that mesh_ goes away, and
  Collectives* joining_ = nullptr;       // while devices join
  bool given_up_ = false;
};

}  // namespace choir
