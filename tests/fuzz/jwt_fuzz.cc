// Tokens: bytes that nobody signed are never taken; what the issuer signed, {"header": {...},
// "claims": {...}}, is taken only with a name, rights and a time that are good, and not when a bit
// of it is another one. The text after the object chooses the options and the bit.
#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "router/identity/jwt.h"
#include "router/identity/keys.h"
#include "tests/fuzz/json_mutator.h"
#include "tests/support/token_signer.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
const WallTime kNow{std::chrono::seconds(1'800'000'000)};

const TokenSigner& Issuer() {
  static const TokenSigner* const issuer = new TokenSigner(TokenSigner::Ed());
  return *issuer;
}

const JwkSet& Keys() {
  static const auto* const keys = new std::shared_ptr<const JwkSet>(
      *JwkSet::Parse(Json{{"keys", {Issuer().Jwk("k")}}}.dump(), "keys"));
  return **keys;
}

JwtOptions OptionsOf(unsigned char choice) {
  JwtOptions options{.issuer = "i", .audiences = {"a", "b"}};
  if ((choice & 1) != 0) options.tenant_claim = "/realm/tenant";
  if ((choice & 2) != 0) options.models_claim = "models";
  if ((choice & 4) != 0) options.networks_claim = "/realm/networks";
  if ((choice & 8) != 0) options.class_claim = "class";
  return options;
}

void CheckTaken(const VerifiedToken& token, const Json& header) {
  CHOIR_CHECK(header["alg"] == "EdDSA");
  CHOIR_CHECK(CheckTenantName(token.tenant).ok());
  CHOIR_CHECK(!token.subject.empty() && token.kid == "k");
  CHOIR_CHECK(token.from <= kNow && kNow < token.until);
}

void Signed(const std::string& text, const std::string& rest) {
  const Json both = Json::parse(text, nullptr, false);
  if (!both.is_object() || !both.contains("header") || !both.contains("claims")) return;
  const auto dump = [](const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const Json header = Json::parse(dump(both["header"]));
  std::string token = Issuer().Sign(header, dump(both["claims"]));
  const JwtOptions options = OptionsOf(rest.empty() ? 0 : static_cast<unsigned char>(rest[0]));
  const auto taken = VerifyJwt(token, Keys(), options, kNow);
  if (!taken.ok()) {
    CHOIR_CHECK(!taken.status().message().empty());
    return;
  }
  CHOIR_CHECK(LooksLikeJwt(token));
  CheckTaken(*taken, header);
  size_t at = 0;
  for (const char c : rest) at = at * 131 + static_cast<unsigned char>(c);
  token[at % token.size()] ^= static_cast<char>(1 << (at / token.size() % 8));
  CHOIR_CHECK(!VerifyJwt(token, Keys(), options, kNow).ok());
}

}  // namespace
}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string raw(reinterpret_cast<const char*>(data), size);
  (void)choir::LooksLikeJwt(raw);
  CHOIR_CHECK(!choir::VerifyJwt(raw, choir::Keys(), choir::OptionsOf(0), choir::kNow).ok());
  const auto [json, rest] = choir::fuzz::SplitInput(data, size);
  choir::Signed(json, rest);
  return 0;
}
