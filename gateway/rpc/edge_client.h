// The gateway's side of choir.v1.Edge: one mux stream to a router carries all requests. Everything
// public runs on the io_context's thread, callbacks too; gRPC's threads only convert and post. When
// the stream to the router breaks, the client reconnects with backoff, trying the routers in turn,
// and goes on with every open request behind what was delivered (EdgeResume); a request whose
// deadline passes before that ends with 503.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gateway/api/api_error.h"
#include "gateway/api/request.h"
#include "gateway/api/response.h"

namespace choir {

struct EdgeOpenInfo {
  std::string bearer;
  std::string source;
  std::string route;
  std::string client_request_id;
  std::string trace_parent;
  uint32_t timeout_ms = 0;
};

struct EdgeAcceptedInfo {
  std::string request_id;
  std::string audit_receipt;
  std::vector<std::pair<std::string, std::string>> headers;  // x-ratelimit-*
};

// Receives one request's events, in order; the last is OnError or OnDone.
class EdgeListener {
 public:
  virtual ~EdgeListener() = default;
  virtual void OnAccepted(EdgeAcceptedInfo info) = 0;
  virtual void OnDelta(ApiDelta delta, size_t bytes) = 0;
  virtual void OnDone(ApiUsage usage) = 0;
  virtual void OnError(ApiError error) = 0;
};

struct EdgeClientOptions {
  std::vector<std::string> routers;  // host:port
  std::string name;                  // of this gateway
  size_t pending_bytes_max =
      size_t{64} << 20;  // written, not yet taken by gRPC: beyond it, requests are refused
};

class EdgeClient {
 public:
  static std::unique_ptr<EdgeClient> Make(boost::asio::io_context& io, EdgeClientOptions options);
  virtual ~EdgeClient() = default;  // ends the stream and joins

  virtual bool connected() const = 0;      // and the router is not draining
  virtual std::string reason() const = 0;  // why not connected
  virtual const std::vector<ApiModel>& models() const = 0;

  // ok() or the error to answer with.
  virtual void Authenticate(std::string bearer, std::string source,
                            std::function<void(ApiError)> done) = 0;
  // Returns the request's number. The listener is kept until its last event or Cancel.
  virtual uint64_t Open(const ApiRequest& request, const EdgeOpenInfo& info,
                        std::shared_ptr<EdgeListener> listener) = 0;
  // No more events come.
  virtual void Cancel(uint64_t id) = 0;
};

}  // namespace choir
