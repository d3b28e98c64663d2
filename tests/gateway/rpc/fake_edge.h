// A router's edge for tests of the gateway's side: says welcome, and then what the test wants to
// each request that is opened. On a free port of loopback.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "choir/v1/edge.grpc.pb.h"
#include "common/base/version.h"

namespace choir {

class FakeEdge final : public v1::Edge::Service {
 public:
  // Fills in what is answered to a request; false: the stream breaks behind it. gRPC's threads.
  using Answer = std::function<bool(const v1::EdgeOpen& open, v1::EdgeDown* down)>;

  explicit FakeEdge(Answer answer, std::function<void(grpc::ServerBuilder*)> configure = nullptr)
      : answer_(std::move(answer)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    if (configure) configure(&builder);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeEdge() override { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::string& address() const { return address_; }
  int num_streams() const {
    const std::lock_guard lock(mu_);
    return num_streams_;
  }
  std::vector<v1::EdgeOpen> opens() const {
    const std::lock_guard lock(mu_);
    return opens_;
  }

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::EdgeDown, v1::EdgeUp>* stream) override {
    v1::EdgeDown welcome;
    welcome.mutable_welcome()->set_protocol_version(kProtocolVersion);
    welcome.mutable_welcome()->set_router(address_);
    {
      const std::lock_guard lock(mu_);
      ++num_streams_;
    }
    stream->Write(welcome);
    v1::EdgeUp up;
    while (stream->Read(&up)) {
      for (const v1::EdgeOpen& open : up.opens()) {
        {
          const std::lock_guard lock(mu_);
          opens_.push_back(open);
        }
        v1::EdgeDown down;
        const bool goes_on = answer_(open, &down);
        for (v1::EdgeEvent& event : *down.mutable_events()) event.set_id(open.id());
        stream->Write(down);
        if (!goes_on) return {grpc::StatusCode::UNAVAILABLE, "the cable was pulled"};
      }
    }
    return grpc::Status::OK;
  }

 private:
  const Answer answer_;
  std::string address_;
  mutable std::mutex mu_;  // guards what follows
  int num_streams_ = 0;
  std::vector<v1::EdgeOpen> opens_;
  std::unique_ptr<grpc::Server> server_;  // last: its threads use what is above
};

}  // namespace choir
