#include "worker/comm/exchange_setup.h"

#include "common/base/check.h"
#include "worker/comm/local_collectives.h"
#include "worker/comm/multi_host_collectives.h"

namespace choir {

StatusOr<std::unique_ptr<ExchangeSetup>> ExchangeSetup::Open(ExchangeOptions options) {
  CHOIR_CHECK(options.hosts.size() == options.pids.size());
  CHOIR_CHECK(options.rank >= 0 && static_cast<size_t>(options.rank) < options.hosts.size());
  std::unique_ptr<ExchangeSetup> setup(new ExchangeSetup(std::move(options)));
  CHOIR_RETURN_IF_ERROR(setup->OpenAll());
  return setup;
}

Status ExchangeSetup::OpenAll() {
  const std::string& here = options_.hosts[static_cast<size_t>(options_.rank)];
  for (size_t r = 0; r < options_.hosts.size(); ++r) {
    (options_.hosts[r] == here ? locals_ : remotes_).push_back(static_cast<int>(r));
  }
  if (locals_.size() > 1 && locals_.front() == options_.rank) {
    CHOIR_ASSIGN_OR_RETURN(segment_, ShmSegment::Create(static_cast<int>(locals_.size()),
                                                        options_.generation, options_.collectives));
    endpoint_.segment = segment_->name();
  }
  if (remotes_.empty()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string address, options_.mesh_address());
  CHOIR_ASSIGN_OR_RETURN(mesh_, GlooMesh::Listen({.rank = options_.rank,
                                                  .size = static_cast<int>(options_.hosts.size()),
                                                  .peers = remotes_,
                                                  .address = address,
                                                  .connect_timeout = options_.connect_timeout}));
  endpoint_.mesh = mesh_->endpoint();
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<Collectives>> ExchangeSetup::JoinLocal(
    const std::vector<ExchangeEndpoint>& endpoints) {
  if (locals_.size() == 1) return MakeSingleCollectives(options_.generation);
  ShmJoin join{.name = endpoints[static_cast<size_t>(locals_.front())].segment,
               .generation = options_.generation,
               .options = options_.collectives,
               .names = locals_};
  for (size_t i = 0; i < locals_.size(); ++i) {
    if (locals_[i] == options_.rank) join.rank = static_cast<int>(i);
    join.pids.push_back(options_.pids[static_cast<size_t>(locals_[i])]);
  }
  return JoinShmCollectives(join);
}

StatusOr<std::unique_ptr<Collectives>> ExchangeSetup::Connect(
    const std::vector<ExchangeEndpoint>& endpoints) {
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<Collectives> made, ConnectHosts(endpoints));
  if (!options_.join_devices) return made;
  {
    std::lock_guard lock(mu_);
    if (given_up_) return Cancelled("generation {} is over", options_.generation);
    joining_ = made.get();
  }
  const Status joined = options_.join_devices(&made);
  std::lock_guard lock(mu_);
  joining_ = nullptr;
  CHOIR_RETURN_IF_ERROR(joined);
  return made;
}

StatusOr<std::unique_ptr<Collectives>> ExchangeSetup::ConnectHosts(
    const std::vector<ExchangeEndpoint>& endpoints) {
  if (endpoints.size() != options_.hosts.size()) {
    return InvalidArgument("{} endpoints for {} ranks", endpoints.size(), options_.hosts.size());
  }
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<Collectives> local, JoinLocal(endpoints));
  if (mesh_ == nullptr) return local;
  std::vector<std::string> meshes;
  for (const ExchangeEndpoint& endpoint : endpoints) meshes.push_back(endpoint.mesh);
  CHOIR_RETURN_IF_ERROR(mesh_->Connect(meshes));
  std::lock_guard lock(mu_);
  return MakeMultiHostCollectives({.rank = options_.rank,
                                   .size = static_cast<int>(options_.hosts.size()),
                                   .generation = options_.generation,
                                   .timeout = options_.collectives.timeout,
                                   .local_ranks = locals_,
                                   .local = std::move(local),
                                   .mesh = std::move(mesh_)});
}

void ExchangeSetup::GiveUp() {
  std::lock_guard lock(mu_);
  given_up_ = true;
  if (mesh_ != nullptr) mesh_->Interrupt();
  if (joining_ != nullptr) {
    joining_->Abort(Cancelled("generation {} is over", options_.generation));
  }
}

}  // namespace choir
