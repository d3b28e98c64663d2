// Somebody who was recognised. Plain value.
#pragma once

#include <memory>
#include <string>

#include "router/identity/rights.h"

namespace choir {

inline constexpr const char* kAuthApiKey = "api_key";
inline constexpr const char* kAuthMtls = "mtls";
inline constexpr const char* kAuthJwt = "jwt";

struct Principal {
  std::string tenant;
  std::string name;         // a key's id, a token's subject, what a certificate is issued to
  std::string key_id;       // the same, unique over all ways: what limits of a key are counted by
  std::string fingerprint;  // names what proved it, no secret: the key, also the one of a token
  const char* auth = "";    // how it was recognised, as the audit log says it: one of the above
  std::shared_ptr<const Rights> rights = std::make_shared<const Rights>();  // never null
};

}  // namespace choir
