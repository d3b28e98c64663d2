// The router core's record of one request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/base/clock.h"
#include "router/admission/admission.h"
#include "router/core/api.h"
#include "router/core/model_text.h"
#include "router/relay/relay.h"

namespace choir {

enum class RequestStage { kText, kIntent, kRunning, kClosing };

struct Request {
  uint64_t id = 0;
  RequestStage stage = RequestStage::kText;
  std::shared_ptr<ClientStream> client;
  RequestInput input;
  std::string request_id;
  std::string tenant;
  std::string key_id;
  std::unique_ptr<Permit> permit;
  std::optional<PreparedRequest> prepared;  // until the relay takes it
  std::unique_ptr<Relay> relay;
  std::string audit_receipt;

  MonoTime arrived;
  MonoTime stage_began;
  MonoTime deadline;
  MonoTime timer;  // in the core's timers when not zero
  double timeout_seconds = 0;
  bool first_token_seen = false;
  bool client_full = false;
  bool dispatched = false;
  bool counted_as_resumed = false;

  std::optional<ApiError> error;  // how it ends, once closing
  Usage usage;
};

}  // namespace choir
