// The id that every answer carries as `x-request-id`: the router's, else the client's, else one
// made here, so that a person who reports any answer can name it.
#pragma once

#include <string>

#include "common/base/request_id.h"

namespace choir {

// For an answer that the router had no part in. Thread-safe.
std::string MakeRequestId();

}  // namespace choir
