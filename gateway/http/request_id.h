// The id that every answer carries as `x-request-id`: the router's, else the client's, else one
// made here, so that a person who reports any answer can name it.
#pragma once

#include <string>
#include <string_view>

namespace choir {

// What a client may send: at most 128 of [A-Za-z0-9._-]. "" is none and is not an id.
bool IsRequestId(std::string_view id);

// For an answer that the router had no part in. Thread-safe.
std::string MakeRequestId();

}  // namespace choir
