// Cross-origin requests from browsers (the Fetch standard's CORS protocol): off unless origins are
// allowed by configuration. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "gateway/http/http_types.h"

namespace choir {

// Whether a browser could send it as its Origin ("https://host[:port]"), or "*" for all.
Status CheckOrigin(const std::string& origin);

// What lets the page that asks read the answer; empty when its origin is not allowed or there is
// none. Without allowed origins nothing tells that CORS exists.
HttpFields CorsFields(const std::vector<std::string>& allowed, const HttpHead& head);

// The answer to a preflight from an allowed origin for a route with this method; nullopt when the
// request is none.
std::optional<HttpFields> PreflightFields(const std::vector<std::string>& allowed,
                                          const HttpHead& head, const std::string& method);

}  // namespace choir
