// choir.v1.Inference, the public API: one call per request. gRPC's threads only post to the loop.
// What a client does not read is bounded; beyond the limit its request is cancelled.
#pragma once

#include <memory>

#include "choir/v1/inference.grpc.pb.h"
#include "common/tls/tls_identity.h"
#include "router/core/router_core.h"
#include "router/core/router_loop.h"
#include "router/rpc/alive.h"

namespace choir {

struct InferenceLimits {
  size_t pending_bytes_max = 8 << 20;  // per call
};

class InferenceService : public v1::Inference::CallbackService {
 public:
  InferenceService(InferenceLimits limits, std::shared_ptr<TlsIdentity> tls, RouterLoop* loop);
  ~InferenceService() override;

  void SetCore(RouterCore* core) { core_ = core; }

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateEvent>* Chat(grpc::CallbackServerContext* context,
                                                    const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

  void WaitClosed() { alive_->WaitNone(); }

 private:
  class Call;
  class ModelsCall;
  grpc::ServerWriteReactor<v1::GenerateEvent>* Start(grpc::CallbackServerContext* context,
                                                     RequestInput input, bool echo);
  ApiError RefuseCall() const;  // any thread: there is no place for one more

  const InferenceLimits limits_;
  const std::shared_ptr<TlsIdentity> tls_;  // null: plain text
  RouterLoop* const loop_;
  RouterCore* core_ = nullptr;
  const std::shared_ptr<Alive> alive_ = std::make_shared<Alive>();
};

}  // namespace choir
