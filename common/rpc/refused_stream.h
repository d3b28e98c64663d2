// A server's answer to a stream that may not be: its status at once, and nothing else.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "common/base/status.h"

namespace choir {

template <typename In, typename Out>
class RefusedStream final : public grpc::ServerBidiReactor<In, Out> {
 public:
  // Owned by gRPC.
  explicit RefusedStream(const Status& why) {
    // The codes of absl and gRPC have the same numbers.
    this->Finish({static_cast<grpc::StatusCode>(why.code()), MessageOf(why)});
  }
  void OnDone() override { delete this; }
};

}  // namespace choir
