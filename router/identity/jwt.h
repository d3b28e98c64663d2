// Tokens of an identity provider: JWTs (RFC 7519) in their compact signed form, judged as RFC 8725
// asks for. A token is good when a key of the JWK set signed it, the issuer and audience are ours
// and its time is now; its claims then say whose it is and what it may do. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/identity/jwks.h"
#include "router/identity/rights.h"

namespace choir {

struct JwtOptions {
  std::string jwks;                    // file; empty: no tokens
  std::string issuer;                  // iss must be this
  std::vector<std::string> audiences;  // aud must hold one of these
  // Names of claims, or JSON pointers ("/realm/tenant"). Empty: not looked at. Each that is named
  // must be there.
  std::string tenant_claim = "tenant";
  std::string models_claim, networks_claim;  // a text or a list of texts
  std::string class_claim;
  Duration leeway = std::chrono::seconds(30);     // by which clocks may differ
  Duration cache_time = std::chrono::minutes(5);  // a verified token is not verified again
  int64_t cache_max = 10'000;                     // tokens
};

// What is missing or wrong in the options. OK without a jwks file when all else is unset.
Status CheckJwtOptions(const JwtOptions& options);

struct VerifiedToken {
  std::string tenant;
  std::string subject;
  std::string kid;  // of the key that signed it; empty: it has no name
  Rights rights;
  WallTime from, until;  // when it is good, leeway included
};

inline constexpr size_t kTokenBytesMax = 16 << 10;

// Whether it has a JWT's form: three parts, the first of which begins as JSON does. Cheap.
bool LooksLikeJwt(std::string_view bearer);

// The error says why not, for the log: a client must not be told.
StatusOr<VerifiedToken> VerifyJwt(std::string_view token, const JwkSet& keys,
                                  const JwtOptions& options, WallTime now);

}  // namespace choir
