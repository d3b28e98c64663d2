// A client of an edge link that keeps what it was told.
#pragma once

#include <string>
#include <utility>

#include "gateway/rpc/edge_client.h"

namespace choir {

struct ToldClient final : EdgeListener {
  void OnAccepted(EdgeAcceptedInfo) override { ++accepted; }
  void OnDelta(ApiDelta delta, size_t) override { text += delta.text; }
  void OnDone(ApiUsage) override { done = true; }
  void OnError(RestError e) override { error = std::move(e); }

  int accepted = 0;
  std::string text;
  bool done = false;
  RestError error;  // ok(): none
};

}  // namespace choir
