// The id that every answer carries as `x-request-id`: the router's, else the client's, else one
// made here, so that a person who reports any answer can name it.
#pragma once

#include <string>

#include "common/base/request_id.h"
#include "gateway/http/http_types.h"

namespace choir {

// What the client calls its request; empty: nothing, or what is no name.
std::string GivenRequestId(const HttpHead& head);

// For an answer that the router had no part in. Thread-safe.
std::string MakeRequestId();

}  // namespace choir
