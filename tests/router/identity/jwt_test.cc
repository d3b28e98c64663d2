#include "router/identity/jwt.h"

#include <gtest/gtest.h>
#include <openssl/hmac.h>

#include "tests/support/token_signer.h"

namespace choir {
namespace {

using Json = TokenSigner::Json;

const WallTime kNow = WallTime(std::chrono::seconds(1'800'000'000));

JwtOptions Options() {
  JwtOptions options;
  options.jwks = "keys.json";
  options.issuer = "https://id.example";
  options.audiences = {"choir", "other"};
  return options;
}

Json Claims() {
  return {
      {"iss", "https://id.example"}, {"aud", "choir"},      {"sub", "app-7"}, {"tenant", "acme"},
      {"exp", 1'800'000'600},        {"iat", 1'800'000'000}};
}
Json With(const char* name, Json value) {
  Json claims = Claims();
  claims[name] = std::move(value);
  return claims;
}
Json Without(const char* name) {
  Json claims = Claims();
  claims.erase(name);
  return claims;
}

std::shared_ptr<const JwkSet> SetOf(const std::vector<Json>& keys) {
  auto set = JwkSet::Parse(Json{{"keys", keys}}.dump(), "keys.json");
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *set : nullptr;
}

class JwtTest : public testing::Test {
 protected:
  // Why the token is refused; "good" when it is not.
  std::string Refused(const std::string& token, WallTime now = kNow) const {
    const auto verified = VerifyJwt(token, *keys_, options_, now);
    return verified.ok() ? "good" : MessageOf(verified.status());
  }
  std::string Refused(const Json& claims, WallTime now = kNow) const {
    return Refused(ec_.Token(claims, "ec"), now);
  }

  const TokenSigner rsa_ = TokenSigner::Rsa(), ec_ = TokenSigner::Ec(), ed_ = TokenSigner::Ed();
  const std::shared_ptr<const JwkSet> keys_ =
      SetOf({rsa_.Jwk("rsa"), ec_.Jwk("ec"), ed_.Jwk("ed")});
  JwtOptions options_ = Options();
};

TEST_F(JwtTest, EachAlgorithmsTokenSaysWhoItIs) {
  const std::pair<const TokenSigner*, const char*> all[] = {
      {&rsa_, "rsa"}, {&ec_, "ec"}, {&ed_, "ed"}};
  for (const auto& [signer, kid] : all) {
    const std::string token = signer->Token(Claims(), kid);
    EXPECT_TRUE(LooksLikeJwt(token));
    const auto verified = VerifyJwt(token, *keys_, options_, kNow);
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ(verified->tenant, "acme");
    EXPECT_EQ(verified->subject, "app-7");
    EXPECT_EQ(verified->kid, kid);
    EXPECT_EQ(verified->rights, Rights());
  }
}

TEST_F(JwtTest, AnyChangedByteOfASignedTokenIsFound) {
  for (const TokenSigner* signer : {&rsa_, &ec_, &ed_}) {
    const std::string kid = signer == &rsa_ ? "rsa" : signer == &ec_ ? "ec" : "ed";
    const std::string token = signer->Token(Claims(), kid);
    for (size_t i = 0; i < token.size(); i += 7) {
      std::string forged = token;
      forged[i] = forged[i] == 'A' ? 'B' : 'A';
      EXPECT_NE(Refused(forged), "good") << kid << " byte " << i;
    }
    EXPECT_NE(Refused(token.substr(0, token.size() - 4)), "good");
    EXPECT_NE(Refused(token + "AAAA"), "good");
  }
}

TEST_F(JwtTest, NoneAndSymmetricAlgorithmsAreNotTaken) {
  const std::string claims = Claims().dump();
  for (const char* algorithm : {"none", "None", "NONE", ""}) {
    const std::string text = TokenSigner::Part(Json{{"alg", algorithm}, {"kid", "ec"}}.dump()) +
                             "." + TokenSigner::Part(claims);
    EXPECT_NE(Refused(text + "."), "good");
    EXPECT_NE(Refused(text + ".AAAA"), "good");
    EXPECT_NE(Refused(text), "good");
  }
  // HS256 with the public key, which everybody knows, as the secret.
  const std::string secret = rsa_.Jwk("rsa").dump();
  for (const char* algorithm : {"HS256", "RS256"}) {
    const std::string text = TokenSigner::Part(Json{{"alg", algorithm}, {"kid", "rsa"}}.dump()) +
                             "." + TokenSigner::Part(claims);
    unsigned char mac[32];
    unsigned size = sizeof mac;
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size);
    EXPECT_NE(Refused(text + "." + ToBase64Url({mac, size})), "good");
  }
}

TEST_F(JwtTest, AKeyIsGoodForItsOwnAlgorithmAndNameOnly) {
  const std::string claims = Claims().dump();
  EXPECT_NE(Refused(rsa_.Sign({{"alg", "ES256"}, {"kid", "rsa"}}, claims)), "good");
  EXPECT_NE(Refused(rsa_.Sign({{"alg", "PS256"}, {"kid", "rsa"}}, claims)), "good");
  EXPECT_NE(Refused(rsa_.Sign({{"alg", "RS512"}, {"kid", "rsa"}}, claims)), "good");
  EXPECT_NE(Refused(ec_.Sign({{"alg", "RS256"}, {"kid", "ec"}}, claims)), "good");
  EXPECT_NE(Refused(ec_.Sign({{"alg", "ES256"}, {"kid", "rsa"}}, claims)), "good");
  const TokenSigner stranger = TokenSigner::Ec();
  EXPECT_NE(Refused(stranger.Token(Claims(), "ec")), "good");
  for (const Json& kid : std::vector<Json>{"", "EC", std::string("ec\0", 3), "../ec",
                                           "ec' OR '1'='1", 7, nullptr, Json::array({"ec"})}) {
    EXPECT_NE(Refused(ec_.Sign({{"alg", "ES256"}, {"kid", kid}}, claims)), "good") << kid;
  }
  EXPECT_EQ(Refused(ec_.Sign({{"alg", "ES256"}}, claims)), "good") << "the only one for it";
  const auto two = SetOf({ec_.Jwk("a"), stranger.Jwk("b")});
  EXPECT_FALSE(VerifyJwt(ec_.Sign({{"alg", "ES256"}}, claims), *two, options_, kNow).ok());
}

TEST_F(JwtTest, KeysThatATokenBringsAlongAreNotLookedAt) {
  const TokenSigner stranger = TokenSigner::Ec();
  for (const char* name : {"jwk", "jku", "x5u", "x5c"}) {
    Json header = {{"alg", "ES256"}, {"kid", "ec"}};
    header[name] = stranger.Jwk("ec");
    EXPECT_NE(Refused(stranger.Sign(header, Claims().dump())), "good") << name;
  }
}

TEST_F(JwtTest, HeadersThatChangeTheMeaningAreRefused) {
  const Json good = {{"alg", "ES256"}, {"kid", "ec"}};
  const std::vector<std::pair<const char*, Json>> changes = {{"crit", Json::array({"exp"})},
                                                             {"crit", Json::array()},
                                                             {"b64", false},
                                                             {"typ", "dpop+jwt"},
                                                             {"typ", "JWE"},
                                                             {"typ", 5},
                                                             {"alg", 5},
                                                             {"alg", nullptr}};
  for (const auto& [name, value] : changes) {
    Json header = good;
    header[name] = value;
    EXPECT_NE(Refused(ec_.Sign(header, Claims().dump())), "good") << header;
  }
  for (const char* type : {"JWT", "jwt", "at+jwt", "application/at+jwt"}) {
    Json header = good;
    header["typ"] = type;
    EXPECT_EQ(Refused(ec_.Sign(header, Claims().dump())), "good") << type;
  }
}

TEST_F(JwtTest, ItsTimeIsNowWithinTheLeeway) {
  const auto at = [](int64_t seconds) { return kNow + std::chrono::seconds(seconds); };
  EXPECT_EQ(Refused(Claims(), at(629)), "good");
  EXPECT_NE(Refused(Claims(), at(630)).find("expired"), std::string::npos);
  EXPECT_EQ(Refused(Claims(), at(-30)), "good");
  EXPECT_NE(Refused(Claims(), at(-31)).find("not valid yet"), std::string::npos);
  const Json later = With("nbf", 1'800'000'100);
  EXPECT_NE(Refused(later, at(69)).find("not valid yet"), std::string::npos);
  EXPECT_EQ(Refused(later, at(70)), "good");
  EXPECT_EQ(Refused(With("exp", 1'800'000'600.5), at(630)), "good");
  options_.leeway = Duration(0);
  EXPECT_NE(Refused(Claims(), at(600)), "good");
  EXPECT_EQ(Refused(Claims(), at(599)), "good");
}

TEST_F(JwtTest, TimesThatAreNoneAreRefused) {
  EXPECT_NE(Refused(Without("exp")).find("exp"), std::string::npos);
  for (const Json& value :
       std::vector<Json>{"1800000600", nullptr, true, Json::array({1}), -1, 0}) {
    EXPECT_NE(Refused(With("exp", value)), "good") << value;
  }
  EXPECT_NE(Refused(With("nbf", "0")), "good");
  EXPECT_NE(Refused(With("nbf", 1e300)), "good");
  EXPECT_EQ(Refused(With("exp", 1e300)), "good") << "for ever";
  EXPECT_EQ(Refused(Without("iat")), "good");
}

TEST_F(JwtTest, IssuerAndAudienceMustBeOurs) {
  for (const Json& value : std::vector<Json>{"https://id.example/", "HTTPS://id.example", "", 5,
                                             Json::array({"https://id.example"}), nullptr}) {
    EXPECT_NE(Refused(With("iss", value)), "good") << value;
  }
  EXPECT_NE(Refused(Without("iss")), "good");
  for (const Json& value :
       std::vector<Json>{"Choir", "choir2", "", 5, Json::array(), nullptr,
                         Json::array({"x", Json::array({"choir"})}), Json{{"choir", 1}}}) {
    EXPECT_NE(Refused(With("aud", value)), "good") << value;
  }
  EXPECT_NE(Refused(Without("aud")), "good");
  EXPECT_EQ(Refused(With("aud", Json::array({"x", "other"}))), "good");
}

TEST_F(JwtTest, WhatIsMalformedIsRefused) {
  const std::string good = ec_.Token(Claims(), "ec");
  const std::string header = R"({"alg":"ES256","kid":"ec"})";
  const auto sign = [&](const std::string& head, const std::string& claims) {
    const std::string text = TokenSigner::Part(head) + "." + TokenSigner::Part(claims);
    return text + "." + TokenSigner::Part(ec_.Signature(text));
  };
  ASSERT_EQ(Refused(sign(header, Claims().dump())), "good");
  for (const std::string& token :
       {std::string(), std::string("."), std::string(".."), std::string("..."), good + ".",
        "." + good, good + "=", good + " ", good.substr(0, good.rfind('.') + 1),
        sign(R"({"alg":"none","alg":"ES256","kid":"ec"})", Claims().dump()), sign(header, "[]"),
        sign(header, "5"), sign(header, ""), sign(header, "{"), sign("[]", Claims().dump()),
        sign(header, Claims().dump() + "x"), sign(header, R"({"sub":"a","sub":"b"})"),
        sign(header, std::string(200, '[')),
        sign(header, With("sub", std::string(kTokenBytesMax, 'x')).dump())}) {
    EXPECT_NE(Refused(token), "good") << token.substr(0, 200);
  }
}

TEST_F(JwtTest, ClaimsSayWhatItMayDo) {
  options_.models_claim = "models";
  options_.networks_claim = "/choir/networks";
  options_.class_claim = "class";
  options_.tenant_claim = "/choir/tenant";
  Json claims = Without("tenant");
  claims["models"] = "my-moe";
  claims["class"] = "bulk";
  claims["choir"] = {{"tenant", "umbrella"}, {"networks", {"10.0.0.0/8", "::1"}}};
  const auto verified = VerifyJwt(ec_.Token(claims, "ec"), *keys_, options_, kNow);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->tenant, "umbrella");
  EXPECT_EQ(RightsText(verified->rights), "class=bulk models=my-moe networks=10.0.0.0/8,::1");
}

TEST_F(JwtTest, AClaimThatIsNamedMustBeThereAndGood) {
  for (const Json& value : std::vector<Json>{"", "a b", 5, nullptr, Json::array({"acme"})}) {
    EXPECT_NE(Refused(With("tenant", value)), "good") << value;
  }
  EXPECT_NE(Refused(Without("tenant")), "good");
  EXPECT_NE(Refused(Without("sub")), "good");
  EXPECT_NE(Refused(With("sub", "")), "good");
  EXPECT_NE(Refused(With("sub", std::string(257, 'a'))), "good");
  options_.models_claim = "models";
  EXPECT_NE(Refused(Claims()), "good") << "no claim is not every model";
  for (const Json& value : std::vector<Json>{Json::array(), 5, Json::array({5}), "", nullptr}) {
    EXPECT_NE(Refused(With("models", value)), "good") << value;
  }
  options_.models_claim = "";
  options_.networks_claim = "networks";
  EXPECT_NE(Refused(With("networks", "everywhere")), "good");
  options_.networks_claim = "";
  options_.class_claim = "class";
  EXPECT_NE(Refused(With("class", "fast")), "good");
  EXPECT_EQ(Refused(With("class", "system")), "good");
}

TEST(JwkSetTest, WeakAndForeignKeysAreLeftOut) {
  const TokenSigner good = TokenSigner::Ec(), weak = TokenSigner::Rsa(1024);
  Json other_use = good.Jwk("enc"), wrong_alg = good.Jwk("alg"), off_curve = good.Jwk("off"),
       short_x = good.Jwk("short"), wrong_curve = good.Jwk("curve"), no_verify = good.Jwk("ops"),
       small_e = TokenSigner::Rsa().Jwk("e");
  other_use["use"] = "enc";
  wrong_alg["alg"] = "ES384";
  off_curve["y"] = off_curve["x"];
  short_x["x"] = "AAAA";
  wrong_curve["crv"] = "P-384";
  no_verify["key_ops"] = {"sign"};
  small_e["e"] = "Aw";
  const auto set = SetOf({weak.Jwk("weak"),
                          other_use,
                          wrong_alg,
                          off_curve,
                          short_x,
                          wrong_curve,
                          no_verify,
                          small_e,
                          {{"kty", "unheard-of"}},
                          good.Jwk("good")});
  ASSERT_NE(set, nullptr);
  EXPECT_EQ(set->size(), 1u);
  EXPECT_EQ(set->Find("RS256", "weak"), nullptr);
  EXPECT_NE(set->Find("ES256", "good"), nullptr);
  JwtOptions options = Options();
  EXPECT_FALSE(VerifyJwt(weak.Token(Claims(), "weak"), *set, options, kNow).ok());
}

TEST(JwkSetTest, AFileThatIsNoneIsNamed) {
  const TokenSigner good = TokenSigner::Ec();
  Json symmetric = {{"kty", "oct"}, {"k", "c2VjcmV0"}}, secret = good.Jwk("a");
  secret["d"] = "AAAA";
  const std::string twice = Json{{"keys", {good.Jwk("a"), good.Jwk("a")}}}.dump();
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}"),
        std::string(R"({"keys":{}})"), std::string(R"({"keys":[]})"),
        std::string(R"({"keys":[5]})"), std::string(R"({"keys":[],"keys":[]})"), twice,
        Json{{"keys", {good.Jwk("b"), symmetric}}}.dump(), Json{{"keys", {secret}}}.dump(),
        Json{{"keys", {TokenSigner::Rsa(1024).Jwk("weak")}}}.dump()}) {
    const auto set = JwkSet::Parse(text, "keys.json");
    ASSERT_FALSE(set.ok()) << text;
    EXPECT_NE(MessageOf(set.status()).find("keys.json"), std::string::npos) << set.status();
  }
}

TEST(JwtOptionsTest, WhatIsMissingIsNamed) {
  const auto error = [](auto change) {
    JwtOptions options = Options();
    change(&options);
    return MessageOf(CheckJwtOptions(options));
  };
  EXPECT_TRUE(CheckJwtOptions({}).ok());
  EXPECT_TRUE(CheckJwtOptions(Options()).ok());
  EXPECT_NE(error([](auto* o) { o->jwks.clear(); }).find("jwt.jwks"), std::string::npos);
  EXPECT_NE(error([](auto* o) { o->issuer.clear(); }).find("jwt.issuer"), std::string::npos);
  EXPECT_NE(error([](auto* o) { o->audiences.clear(); }).find("jwt.audience"), std::string::npos);
  EXPECT_NE(error([](auto* o) { o->audiences = {""}; }).find("jwt.audience"), std::string::npos);
  EXPECT_NE(error([](auto* o) { o->tenant_claim.clear(); }).find("tenant_claim"),
            std::string::npos);
  EXPECT_NE(error([](auto* o) { o->class_claim = "/a~2"; }).find("class_claim"), std::string::npos);
}

TEST(Base64UrlTest, ThereIsOneSpellingOfEachValue) {
  for (const std::string& value : {std::string(), std::string("a"), std::string("ab"),
                                   std::string("abc"), std::string("\xff\xfe\0\x01", 4)}) {
    EXPECT_EQ(FromBase64Url(TokenSigner::Part(value)), value);
  }
  for (const char* text : {"A", "AAAAA", "AA==", "AB", "AAB", "A+AA", "A/AA", "AA A", "AA\n"}) {
    EXPECT_FALSE(FromBase64Url(text)) << text;
  }
}

}  // namespace
}  // namespace choir
