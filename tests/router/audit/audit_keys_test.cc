#include "router/audit/audit_keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

TEST(AuditKeysTest, SignsWhatItsPublicKeyVerifiesAndNothingElse) {
  const TempDir dir;
  const auto signer = AuditSigner::Open(dir.path() + "/keys", true);
  ASSERT_TRUE(signer.ok()) << signer.status();
  const auto verifier = AuditVerifier::FromPem(signer->public_pem(), "key");
  ASSERT_TRUE(verifier.ok());
  EXPECT_EQ(verifier->fingerprint(), signer->fingerprint());
  const std::string signature = signer->Sign("text");
  EXPECT_TRUE(verifier->Verify("text", signature));
  EXPECT_FALSE(verifier->Verify("texT", signature));
  EXPECT_FALSE(verifier->Verify("text", ""));
  EXPECT_FALSE(verifier->Verify("text", "no base64!"));
  const TempDir other;
  const auto stranger = AuditSigner::Open(other.path() + "/keys", true);
  EXPECT_FALSE(verifier->Verify("text", stranger->Sign("text")));
}

TEST(AuditKeysTest, KeepsItsKeyAndKeepsItSecret) {
  const TempDir dir;
  const std::string first = AuditSigner::Open(dir.path() + "/keys", true)->fingerprint();
  EXPECT_EQ(AuditSigner::Open(dir.path() + "/keys", false)->fingerprint(), first);
  struct stat st {};
  ASSERT_EQ(stat((dir.path() + "/keys/signing.pem").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((dir.path() + "/keys").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST(AuditKeysTest, AMissingOrForeignSigningKeyIsNamed) {
  const TempDir dir;
  const auto missing = AuditSigner::Open(dir.path() + "/keys", false);
  EXPECT_NE(missing.status().message().find("signing.pem"), absl::string_view::npos);
  std::ofstream(dir.path() + "/keys/signing.pem") << "no key";
  EXPECT_FALSE(AuditSigner::Open(dir.path() + "/keys", true).ok());
}

TEST(AuditKeysTest, SealedContentOpensWithItsKeyAndContextOnly) {
  TenantKey key{}, other{};
  other[31] = 1;
  const std::string sealed = SealContent(key, "req-1", "the content");
  EXPECT_NE(sealed, SealContent(key, "req-1", "the content"));  // a new nonce each time
  EXPECT_EQ(*OpenContent(key, "req-1", sealed), "the content");
  EXPECT_FALSE(OpenContent(key, "req-2", sealed).ok());
  EXPECT_FALSE(OpenContent(other, "req-1", sealed).ok());
  EXPECT_FALSE(OpenContent(key, "req-1", "").ok());
}

TEST(AuditKeysTest, ADestroyedTenantKeyIsGoneForOtherHoldersToo) {
  const TempDir dir;
  TenantKeys running(dir.path() + "/keys");
  const TenantKey first = *running.Get("acme");
  EXPECT_EQ(*running.Get("acme"), first);
  EXPECT_NE(*running.Get("other"), first);
  ASSERT_TRUE(TenantKeys(dir.path() + "/keys").Destroy("acme").ok());
  EXPECT_TRUE(absl::IsNotFound(running.Find("acme").status()));
  EXPECT_NE(*running.Get("acme"), first);
  EXPECT_TRUE(absl::IsNotFound(TenantKeys(dir.path() + "/keys").Destroy("nobody")));
}

}  // namespace
}  // namespace choir
