// One stream to one router, as edge_client.h describes it, which is tried again at the others when
// it breaks. EdgeClient is made of these: one that takes new requests; those of routers that drain
// or are unfit, until their requests are over; those to routers that were asked for a stream. Runs
// on the io_context's thread.
#pragma once

#include "gateway/rpc/edge_client.h"

namespace choir {

struct EdgeLinkStart {
  size_t router = 0;                // index of the first to be tried
  bool stays = false;               // it tries no other
  uint64_t id = 0;                  // requests are numbered from here
  std::function<void()> on_change;  // a router said who or how it is, or is lost
};

class EdgeLink : public EdgeClient {
 public:
  static std::unique_ptr<EdgeLink> Make(boost::asio::io_context& io, EdgeClientOptions options,
                                        EdgeLinkStart start);

  virtual bool reached() const = 0;   // a router is there; it may drain
  virtual bool fit() const = 0;       // and it takes new requests
  virtual bool idle() const = 0;      // nothing is open, nothing needs to be told any more
  virtual size_t router() const = 0;  // index of the one in use
  // Seeking, it leaves a router that is not fit and tries the next. Only while it has no requests.
  virtual void SetSeeking(bool seeking) = 0;
};

}  // namespace choir
