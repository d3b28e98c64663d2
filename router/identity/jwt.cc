#include "router/identity/jwt.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/files/json_file.h"
#include "router/identity/base64url.h"
#include "router/identity/keys.h"

namespace choir {
namespace {

using nlohmann::json;

constexpr JsonLimits kJsonLimits = {.bytes_max = kTokenBytesMax, .values_max = 2000};
constexpr size_t kSubjectMax = 256;
constexpr double kSecondsMax = 9.2e9;  // nanoseconds in 64 bits end after that

struct Parts {
  std::string_view signed_text;  // header and claims as they came
  json header, claims;
  std::string signature;
};

StatusOr<json> ObjectOf(std::string_view text, const char* part) {
  const auto bytes = FromBase64Url(text);
  if (!bytes) return InvalidArgument("{}: no base64url", part);
  CHOIR_ASSIGN_OR_RETURN(json value, ParseJson(*bytes, part, kJsonLimits));
  if (!value.is_object()) return InvalidArgument("{}: no object", part);
  return value;
}

StatusOr<Parts> Split(std::string_view token) {
  if (token.size() > kTokenBytesMax) return InvalidArgument("longer than {} bytes", kTokenBytesMax);
  const size_t first = token.find('.');
  const size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos) {
    return InvalidArgument("not three parts");
  }
  Parts parts;
  parts.signed_text = token.substr(0, second);
  CHOIR_ASSIGN_OR_RETURN(parts.header, ObjectOf(token.substr(0, first), "header"));
  CHOIR_ASSIGN_OR_RETURN(parts.claims,
                         ObjectOf(token.substr(first + 1, second - first - 1), "claims"));
  auto signature = FromBase64Url(token.substr(second + 1));
  if (!signature || signature->empty()) return InvalidArgument("signature: no base64url");
  parts.signature = *std::move(signature);
  return parts;
}

StatusOr<const JwkSet::Key*> KeyOf(const json& header, const JwkSet& keys) {
  // What we do not know may change the meaning of all else (RFC 7515 §4.1.11); "b64" is such a one.
  if (header.contains("crit") || header.contains("b64")) {
    return InvalidArgument("it has critical extensions");
  }
  const auto type = header.find("typ");
  if (type != header.end()) {  // a token for another purpose is none for us
    std::string name = type->is_string() ? type->get<std::string>() : "?";
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (name.starts_with("application/")) name = name.substr(12);
    if (name != "jwt" && name != "at+jwt") return InvalidArgument("typ is '{}'", name);
  }
  const auto algorithm = header.find("alg"), kid = header.find("kid");
  if (algorithm == header.end() || !algorithm->is_string()) return InvalidArgument("no alg");
  std::optional<std::string> name;
  if (kid != header.end()) {
    if (!kid->is_string()) return InvalidArgument("kid is no text");
    name = kid->get<std::string>();
  }
  const JwkSet::Key* const key = keys.Find(algorithm->get<std::string>(), name);
  if (key == nullptr) return InvalidArgument("there is no key for its alg and kid");
  return key;
}

StatusOr<double> TimeOf(const json& claims, const char* name, double absent) {
  const auto it = claims.find(name);
  if (it == claims.end()) return absent;
  if (!it->is_number()) return InvalidArgument("{} is no number", name);
  return it->get<double>();
}

WallTime AtSeconds(double seconds) {
  const double within = std::clamp(seconds, 0.0, kSecondsMax);
  return WallTime(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(within)));
}

Status CheckTimes(const json& claims, const JwtOptions& options, WallTime now,
                  VerifiedToken* token) {
  if (!claims.contains("exp")) return InvalidArgument("it has no end (exp)");
  CHOIR_ASSIGN_OR_RETURN(const double end, TimeOf(claims, "exp", 0));
  CHOIR_ASSIGN_OR_RETURN(const double begin, TimeOf(claims, "nbf", 0));
  CHOIR_ASSIGN_OR_RETURN(const double issued, TimeOf(claims, "iat", 0));
  const double leeway = Seconds(options.leeway);
  token->from = AtSeconds(std::max(begin, issued) - leeway);
  token->until = AtSeconds(end + leeway);
  if (now < token->from) return InvalidArgument("it is not valid yet");
  if (now >= token->until) return InvalidArgument("it is expired");
  return absl::OkStatus();
}

Status CheckIssue(const json& claims, const JwtOptions& options) {
  const auto issuer = claims.find("iss"), audience = claims.find("aud");
  if (issuer == claims.end() || *issuer != options.issuer) {
    return InvalidArgument("it is of another issuer");
  }
  const auto ours = [&](const json& value) {
    return value.is_string() &&
           std::find(options.audiences.begin(), options.audiences.end(),
                     value.get_ref<const std::string&>()) != options.audiences.end();
  };
  if (audience != claims.end() &&
      (ours(*audience) ||
       (audience->is_array() && std::any_of(audience->begin(), audience->end(), ours)))) {
    return absl::OkStatus();
  }
  return InvalidArgument("it is for another audience");
}

// Null: it is not there.
const json* Claim(const json& claims, const std::string& name) {
  if (name.starts_with('/')) {
    try {
      const json::json_pointer at(name);
      return claims.contains(at) ? &claims.at(at) : nullptr;
    } catch (const json::exception&) {
      return nullptr;
    }
  }
  const auto it = claims.find(name);
  return it == claims.end() ? nullptr : &*it;
}

// Calls `add` with the claim's text, or with each of its list.
Status ReadTexts(const json& claims, const std::string& name,
                 const std::function<Status(const std::string&)>& add) {
  if (name.empty()) return absl::OkStatus();
  const json* const value = Claim(claims, name);
  if (value == nullptr) return InvalidArgument("{}: it has no such claim", name);
  if (value->is_string()) return add(value->get<std::string>());
  if (!value->is_array() || value->empty()) return InvalidArgument("{}: no texts", name);
  for (const json& one : *value) {
    if (!one.is_string()) return InvalidArgument("{}: no texts", name);
    CHOIR_RETURN_IF_ERROR(add(one.get<std::string>()));
  }
  return absl::OkStatus();
}

StatusOr<std::string> TextOf(const json& claims, const std::string& name) {
  const json* const value = Claim(claims, name);
  if (value == nullptr || !value->is_string()) return InvalidArgument("{}: no such text", name);
  return value->get<std::string>();
}

Status ReadClaims(const json& claims, const JwtOptions& options, VerifiedToken* token) {
  CHOIR_ASSIGN_OR_RETURN(token->subject, TextOf(claims, "sub"));
  if (token->subject.empty() || token->subject.size() > kSubjectMax) {
    return InvalidArgument("sub: 1 to {} bytes are good", kSubjectMax);
  }
  CHOIR_ASSIGN_OR_RETURN(token->tenant, TextOf(claims, options.tenant_claim));
  CHOIR_RETURN_IF_ERROR(CheckTenantName(token->tenant));
  Rights& rights = token->rights;
  CHOIR_RETURN_IF_ERROR(ReadTexts(claims, options.models_claim,
                                  [&](const std::string& one) { return AddModel(one, &rights); }));
  CHOIR_RETURN_IF_ERROR(ReadTexts(claims, options.networks_claim, [&](const std::string& one) {
    return AddNetwork(one, &rights);
  }));
  if (options.class_claim.empty()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string name, TextOf(claims, options.class_claim));
  return SetClass(name, &rights);
}

Status CheckClaimName(const char* option, const std::string& name) {
  if (!name.starts_with('/')) return absl::OkStatus();
  try {
    (void)json::json_pointer(name);
  } catch (const json::exception&) {
    return InvalidArgument("{}: '{}' is no JSON pointer", option, name);
  }
  return absl::OkStatus();
}

}  // namespace

Status CheckJwtOptions(const JwtOptions& o) {
  if (o.jwks.empty()) {
    if (o.issuer.empty() && o.audiences.empty()) return absl::OkStatus();
    return InvalidArgument("jwt.jwks: missing: the file of the issuer's public keys");
  }
  if (o.issuer.empty()) return InvalidArgument("jwt.issuer: missing: what iss of the tokens is");
  if (o.audiences.empty() ||
      std::find(o.audiences.begin(), o.audiences.end(), "") != o.audiences.end()) {
    return InvalidArgument("jwt.audience: missing: what aud of the tokens is");
  }
  if (o.tenant_claim.empty()) return InvalidArgument("jwt.tenant_claim: a name is needed");
  CHOIR_RETURN_IF_ERROR(CheckClaimName("jwt.tenant_claim", o.tenant_claim));
  CHOIR_RETURN_IF_ERROR(CheckClaimName("jwt.models_claim", o.models_claim));
  CHOIR_RETURN_IF_ERROR(CheckClaimName("jwt.networks_claim", o.networks_claim));
  return CheckClaimName("jwt.class_claim", o.class_claim);
}

bool LooksLikeJwt(std::string_view bearer) {
  return bearer.starts_with("ey") && std::count(bearer.begin(), bearer.end(), '.') == 2;
}

StatusOr<VerifiedToken> VerifyJwt(std::string_view token, const JwkSet& keys,
                                  const JwtOptions& options, WallTime now) {
  CHOIR_ASSIGN_OR_RETURN(const Parts parts, Split(token));
  CHOIR_ASSIGN_OR_RETURN(const JwkSet::Key* const key, KeyOf(parts.header, keys));
  VerifiedToken verified;
  // What costs little goes first; none of it is believed before the signature.
  CHOIR_RETURN_IF_ERROR(CheckIssue(parts.claims, options));
  CHOIR_RETURN_IF_ERROR(CheckTimes(parts.claims, options, now, &verified));
  if (!JwkSet::Verify(*key, parts.signed_text, parts.signature)) {
    return InvalidArgument("its signature is not good");
  }
  CHOIR_RETURN_IF_ERROR(ReadClaims(parts.claims, options, &verified));
  verified.kid = JwkSet::Name(*key);
  return verified;
}

}  // namespace choir
