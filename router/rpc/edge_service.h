// choir.v1.Edge: one stream per gateway carries all its requests. gRPC's threads only post to the
// loop; everything else here happens on the owner thread. One received message is under way per
// gateway, and what a gateway does not read is bounded: beyond the limit its stream is cut, and its
// requests with it. A request opened with a window gets no more than that beyond what its client
// has taken (EdgeGrant); the rest waits here, bounded too: beyond it that request alone is
// cancelled.
#pragma once

#include <memory>
#include <set>

#include "choir/v1/edge.grpc.pb.h"
#include "common/tls/tls_identity.h"
#include "router/core/router_core.h"
#include "router/core/router_loop.h"
#include "router/rpc/alive.h"

namespace choir {

struct EdgeLimits {
  size_t pending_bytes_max = 64 << 20;
  size_t held_bytes_max = 4 << 20;          // of one request, for its window to open
  size_t held_bytes_total_max = 256 << 20;  // of all requests of a gateway
};

class EdgeService : public v1::Edge::CallbackService {
 public:
  EdgeService(EdgeLimits limits, std::shared_ptr<TlsIdentity> tls, RouterLoop* loop);
  ~EdgeService() override;

  void SetCore(RouterCore* core) { core_ = core; }
  grpc::ServerBidiReactor<v1::EdgeUp, v1::EdgeDown>* Connect(
      grpc::CallbackServerContext* context) override;

  // Owner thread. Writes what the round gathered; tells all gateways when models, draining
  // or fitness changed.
  void EachRound();
  // Owner thread. Ends all streams and refuses new ones.
  void Close();
  void WaitClosed() { alive_->WaitNone(); }

 private:
  class Stream;
  class Request;

  v1::EdgeWelcome Welcome() const;

  const EdgeLimits limits_;
  const std::shared_ptr<TlsIdentity> tls_;  // null: plain text
  RouterLoop* const loop_;
  RouterCore* core_ = nullptr;
  std::set<std::shared_ptr<Stream>> streams_;  // owner thread only, as all below
  struct Told {
    RouterCore::ModelInfo model;
    bool draining = false;
    std::string unfit;
    bool operator==(const Told&) const = default;
  };
  Told told_;
  bool closed_ = false;
  const std::shared_ptr<Alive> alive_ = std::make_shared<Alive>();
};

}  // namespace choir
