#include "router/identity/identity.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/support/temp_dir.h"
#include "tests/support/token_signer.h"

namespace choir {
namespace {

class SetClock final : public Clock {
 public:
  MonoTime Now() const override { return {}; }
  WallTime Wall() const override { return WallTime(std::chrono::seconds(seconds)); }
  std::atomic<int64_t> seconds = 1'800'000'000;
};

TEST(IdentityTest, AKeyAndACertificateAreTakenForWhatTheyAre) {
  const NewKey key = MakeKey("acme", Clock::Real());
  const Identity identity({key.record});
  const auto by_key = identity.Authenticate(key.secret, {.identity = "tenant/umbrella"});
  ASSERT_TRUE(by_key);
  EXPECT_EQ(by_key->tenant, "acme") << "a key goes before the certificate";
  EXPECT_EQ(by_key->key_id, key.record.id);
  EXPECT_STREQ(by_key->auth, "api_key");
  const auto by_certificate = identity.Authenticate("", {.identity = "tenant/umbrella"});
  ASSERT_TRUE(by_certificate);
  EXPECT_EQ(by_certificate->tenant, "umbrella");
  EXPECT_EQ(by_certificate->key_id, "tenant/umbrella");
  EXPECT_STREQ(by_certificate->auth, "mtls");
}

TEST(IdentityTest, NobodyElseIsRecognised) {
  const NewKey key = MakeKey("acme", Clock::Real());
  const Identity identity({key.record});
  EXPECT_FALSE(identity.Authenticate(""));
  EXPECT_FALSE(identity.Authenticate("wrong", {.identity = "tenant/umbrella"}))
      << "a wrong key is not passed by";
  for (const char* certificate : {"worker/g0r1", "gateway", "tenant/", "tenant/a/b", "tenant"}) {
    EXPECT_FALSE(identity.Authenticate("", {.identity = certificate})) << certificate;
  }
}

TEST(IdentityTest, ARuleSaysWhoACertificateIsAndGoesBeforeItsOwnForm) {
  TempDir dir;
  const std::string keys = dir.path() + "/keys.yaml";
  ASSERT_TRUE(SaveKeys(keys, {}).ok());
  auto rights = std::make_shared<Rights>();
  ASSERT_TRUE(AddModel("m", rights.get()).ok());
  auto identity = Identity::Open(
      {.keys_file = keys,
       .certificates = {{.spiffe = "spiffe://choir/tenant/umbrella",
                         .tenant = "acme",
                         .rights = rights},
                        {.dns = "app.example.org", .tenant = "app", .rights = rights}}},
      {});
  ASSERT_TRUE(identity.ok()) << identity.status();
  const auto by_rule = (*identity)->Authenticate(
      "", {.spiffe = "spiffe://choir/tenant/umbrella", .identity = "tenant/umbrella"});
  ASSERT_TRUE(by_rule);
  EXPECT_EQ(by_rule->tenant, "acme");
  EXPECT_EQ(by_rule->name, "spiffe://choir/tenant/umbrella");
  EXPECT_STREQ(by_rule->auth, "mtls");
  EXPECT_FALSE(MayUseModel(*by_rule->rights, "other"));
  const auto by_dns = (*identity)->Authenticate("", {.dns = {"app.example.org"}});
  ASSERT_TRUE(by_dns);
  EXPECT_EQ(by_dns->name, "app.example.org");
  EXPECT_EQ((*identity)->Authenticate("", {.identity = "tenant/own"})->tenant, "own");
}

class TokensTest : public testing::Test {
 protected:
  TokensTest() {
    EXPECT_TRUE(SaveKeys(dir_.path() + "/keys.yaml", {}).ok());
    Publish(signer_.Jwk("a"));
    identity_ = Open();
  }
  std::unique_ptr<Identity> Open() {
    JwtOptions jwt;
    jwt.jwks = dir_.path() + "/jwks.json";
    jwt.issuer = "i";
    jwt.audiences = {"choir"};
    auto identity = Identity::Open(
        {.keys_file = dir_.path() + "/keys.yaml", .jwt = jwt},
        [this](const std::string& file, const Status& status) {
          const std::lock_guard lock(mu_);
          if (file.ends_with("jwks.json")) results_.push_back(status.ok());
          changed_.notify_all();
        },
        &clock_);
    EXPECT_TRUE(identity.ok()) << identity.status();
    return identity.ok() ? *std::move(identity) : nullptr;
  }
  void Publish(const TokenSigner::Json& jwk) { Write(TokenSigner::Json{{"keys", {jwk}}}.dump()); }
  void Write(const std::string& text) {
    const std::string file = dir_.path() + "/jwks.json";
    std::ofstream(file + ".new") << text;
    std::filesystem::rename(file + ".new", file);
  }
  // Whether the watcher comes to that result.
  bool Wait(bool ok) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [&] { return !results_.empty() && results_.back() == ok; });
  }
  std::string Token(const TokenSigner& signer, const std::string& kid) const {
    return signer.Token({{"iss", "i"},
                         {"aud", "choir"},
                         {"sub", "app"},
                         {"tenant", "acme"},
                         {"exp", 1'800'000'060}},
                        kid);
  }

  TempDir dir_;
  SetClock clock_;
  const TokenSigner signer_ = TokenSigner::Ed();
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<bool> results_;
  std::unique_ptr<Identity> identity_;
};

TEST_F(TokensTest, ATokenIsVerifiedOnceAndNotKnownBeyondItsEnd) {
  const std::string token = Token(signer_, "a");
  for (int i = 0; i < 3; ++i) {
    const auto principal = identity_->Authenticate(token);
    ASSERT_TRUE(principal);
    EXPECT_EQ(principal->tenant, "acme");
    EXPECT_EQ(principal->name, "app");
    EXPECT_EQ(principal->key_id, "jwt:app");
    EXPECT_EQ(principal->fingerprint, "a");
    EXPECT_STREQ(principal->auth, "jwt");
    EXPECT_EQ(identity_->cached_tokens(), 1u);
  }
  std::string other = token;
  char& signed_by = other[other.size() - 20];
  signed_by = signed_by == 'A' ? 'B' : 'A';
  EXPECT_FALSE(identity_->Authenticate(other));
  clock_.seconds = 1'800'000'060 + 30;
  EXPECT_FALSE(identity_->Authenticate(token));
  clock_.seconds = 1'800'000'060 + 29;
  EXPECT_TRUE(identity_->Authenticate(token));
}

TEST_F(TokensTest, AnotherSetOfKeysForgetsWhatTheOldOneVerified) {
  const std::string token = Token(signer_, "a");
  ASSERT_TRUE(identity_->Authenticate(token));
  const TokenSigner next = TokenSigner::Ec();
  Publish(next.Jwk("b"));
  ASSERT_TRUE(Wait(true));
  EXPECT_FALSE(identity_->Authenticate(token));
  EXPECT_TRUE(identity_->Authenticate(Token(next, "b")));
}

TEST_F(TokensTest, ABrokenSetLeavesTheOldOneInForceAndSaysSo) {
  const std::string token = Token(signer_, "a");
  Write("{\"keys\": [");
  ASSERT_TRUE(Wait(false));
  EXPECT_TRUE(identity_->Authenticate(token));
  Publish(signer_.Jwk("a"));
  ASSERT_TRUE(Wait(true));
  std::filesystem::remove(dir_.path() + "/jwks.json");
  ASSERT_TRUE(Wait(false)) << "a file that is gone is a broken one";
  EXPECT_TRUE(identity_->Authenticate(token));
}

TEST_F(TokensTest, WithoutASetNoTokenIsTaken) {
  const Identity none(std::vector<KeyRecord>{});
  EXPECT_FALSE(none.Authenticate(Token(signer_, "a")));
  EXPECT_FALSE(identity_->Authenticate(std::string("ey") + std::string(100'000, 'A') + "..x"));
}

}  // namespace
}  // namespace choir
