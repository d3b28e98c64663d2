// Headers of a request, checked, and those whose values go on to the router. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/ip_network.h"
#include "gateway/api/api_error.h"
#include "gateway/api/stream_position.h"
#include "gateway/http/http_types.h"

namespace choir {

// The key of "Authorization: Bearer KEY"; empty: none that could be one.
std::string BearerOf(const HttpHead& head);
// The address of the client: of the connection's peer, or, where that is a trusted proxy, what the
// proxies report in X-Forwarded-For: its last address that is no trusted proxy's. What a client
// wrote there itself stands before that and is not looked at, nor is the field of anybody else.
std::string ClientOf(const HttpHead& head, const std::string& peer,
                     const std::vector<IpNetwork>& trusted_proxies);
// x-request-id and x-request-timeout; the latter in milliseconds, untouched where it is absent.
RestError CheckHeaders(const HttpHead& head, uint32_t* timeout_ms);
// Last-Event-ID; empty where it is absent.
RestError PositionOf(const HttpHead& head, StreamPosition* position);

}  // namespace choir
