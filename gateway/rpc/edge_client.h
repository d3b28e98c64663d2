// The gateway's side of choir.v1.Edge: one mux stream to a router carries all requests. Everything
// public runs on the io_context's thread, callbacks too; gRPC's threads only convert and post. When
// the stream to the router breaks, the client reconnects with backoff, trying the routers in turn,
// and goes on with every open request behind what was delivered (EdgeResume); a request whose
// deadline passes before that ends with 503. When the router drains, or says that it is unfit, and
// there is another, new requests go to that one, and those that run stay; they come back when it is
// fit again. A stream that lost its gateway is looked for at all routers.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/tls/tls_identity.h"
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
  std::string session;          // x-choir-session; empty: the request's own
  std::string admission_class;  // x-choir-class; empty: the key's
  bool no_cache = false;        // the answer is computed, and not kept for others
  uint32_t timeout_ms = 0;
  uint64_t window_bytes = 0;  // of events that Took() has not answered; 0: no limit
  // Not empty: the stream may be taken up at another gateway, which is given this.
  std::string resume_state;
};

struct EdgeAcceptedInfo {
  std::string request_id;
  std::string audit_receipt;
  std::string resume_state;  // of a stream that was taken up: as it was opened
  bool recalled = false;     // the answer was given before
  std::vector<std::pair<std::string, std::string>> headers;  // x-ratelimit-*
};

// Receives one request's events, in order; the last is OnError or OnDone.
class EdgeListener {
 public:
  virtual ~EdgeListener() = default;
  virtual void OnAccepted(EdgeAcceptedInfo info) = 0;
  virtual void OnDelta(ApiDelta delta, size_t bytes) = 0;
  virtual void OnDone(ApiUsage usage) = 0;
  virtual void OnError(RestError error) = 0;
};

struct EdgeClientOptions {
  std::vector<std::string> routers;  // host:port
  std::string name;                  // of this gateway
  std::shared_ptr<TlsIdentity> tls;  // null: plain text
  TlsOptions tls_options;
  size_t pending_bytes_max =
      size_t{64} << 20;  // written, not yet taken by gRPC: beyond it, requests are refused
  // A router that does not answer for so long is lost; so is one that cannot be connected to.
  Duration router_timeout = std::chrono::seconds(5);
  // To hear soon when a router hangs: routers allow a ping every half second. An older one allows
  // one in ten seconds, and ends the connection when more come: it gets fewer from then on.
  Duration ping_interval = std::chrono::seconds(1);
  Duration slow_ping_interval = std::chrono::seconds(20);
  Duration slow_for = std::chrono::minutes(1);  // a connection later than that is tried as any: the
                                                // router may be a newer one
  // The body of a request with a key that the router recognised so recently is read at once: the
  // router judges the key when the request is opened. 0: it is always asked before.
  Duration key_known_for = std::chrono::seconds(1);
};

// Who asks, as far as headers tell.
struct EdgeCaller {
  std::string bearer, source, route;
  bool want_status = false;   // also tell how router and workers are
  bool check_rights = false;  // nothing else follows: also check what the key may do
  std::string model;          // with check_rights: this model
  std::string request_id;     // as the answer is named
};

// What the router says of one that it recognised.
struct EdgeAnswer {
  std::string status_json;          // when it was wanted
  std::vector<std::string> models;  // with check_rights: that the key may use; empty: all
};

class EdgeClient {
 public:
  // ok() and the answer, or the error to answer with.
  using AuthDone = std::function<void(RestError, EdgeAnswer)>;

  static std::unique_ptr<EdgeClient> Make(boost::asio::io_context& io, EdgeClientOptions options);
  virtual ~EdgeClient() = default;  // ends the stream and joins

  virtual bool connected() const = 0;      // and the router is not draining
  virtual std::string reason() const = 0;  // why not connected
  virtual const std::vector<ApiModel>& models() const = 0;

  virtual void Authenticate(EdgeCaller caller, AuthDone done) = 0;
  // How the request would be placed, as JSON, or the error that it would get. Of a batch, the first
  // prompt.
  using ExplainDone = std::function<void(RestError, std::string json)>;
  virtual void Explain(const ApiRequest& request, const EdgeOpenInfo& info, ExplainDone done) = 0;
  // Returns the request's number; `prompt` is the index of a completion's. The listener is kept
  // until its last event or Cancel.
  virtual uint64_t Open(const ApiRequest& request, size_t prompt, const EdgeOpenInfo& info,
                        std::shared_ptr<EdgeListener> listener) = 0;
  // Takes up a stream that lost its gateway, behind what its client has, from whichever router has
  // it. Of `info` bearer, source, route, trace_parent, timeout_ms and window_bytes count.
  virtual uint64_t Attach(const std::string& request_id, const StreamPosition& position,
                          const EdgeOpenInfo& info, std::shared_ptr<EdgeListener> listener) = 0;
  // So many bytes of OnDelta were used up: the router may send as many more.
  virtual void Took(uint64_t id, size_t bytes) = 0;
  // No more events come. Of a request that had its last one: the client has it, too, and nothing
  // needs to be kept for it any more.
  virtual void Cancel(uint64_t id) = 0;
};

}  // namespace choir
