#include "common/tls/certificate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/test_authority.h"

namespace choir {
namespace {

using ::testing::HasSubstr;

class CertificateTest : public ::testing::Test {
 protected:
  std::string Refusal(const TlsOptions& options, const std::string& role) {
    const auto loaded = LoadTlsMaterial(options, role);
    return loaded.ok() ? "accepted" : MessageOf(loaded.status());
  }
  // What `own` says of a peer with that certificate.
  std::string Judge(const KeyAndCertificate& peer, PeerSide side = PeerSide::kClient,
                    const std::string& chain = "") {
    const auto own = LoadTlsMaterial(authority_.Place("worker"), "worker");
    EXPECT_TRUE(own.ok()) << own.status();
    const auto name = JudgePeer(**own, side, peer.cert_pem, chain);
    return name.ok() ? "accepted " + name->identity : MessageOf(name.status());
  }
  TestAuthority authority_;
};

TEST_F(CertificateTest, LoadsGoodFiles) {
  const auto loaded = LoadTlsMaterial(authority_.Place("worker"), "worker");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->name.spiffe, "spiffe://choir/worker");
  EXPECT_EQ((*loaded)->name.identity, "worker");
  EXPECT_NEAR(static_cast<double>((*loaded)->name.not_after),
              static_cast<double>(UnixNow() + TestAuthority::kDay), 60);
}

TEST_F(CertificateTest, NamesTheFileThatCannotBeRead) {
  TlsOptions options = authority_.Place("worker");
  options.key = "/nowhere/key.pem";
  EXPECT_EQ(Refusal(options, "worker"), "--tls-key: /nowhere/key.pem: No such file or directory");
  options = authority_.Place("worker");
  options.ca = authority_.Path("");
  EXPECT_THAT(Refusal(options, "worker"), HasSubstr("Is a directory"));
  options = authority_.Place("worker");
  authority_.Write("worker.pem", "garbage");
  EXPECT_THAT(Refusal(options, "worker"), HasSubstr("worker.pem: holds no PEM certificate"));
  options = authority_.Place("worker");
  authority_.Write("worker-key.pem", "garbage");
  EXPECT_THAT(Refusal(options, "worker"), HasSubstr("worker-key.pem: holds no PEM private key"));
  if (geteuid() != 0) {  // root reads everything
    options = authority_.Place("worker");
    chmod(options.cert.c_str(), 0);
    EXPECT_THAT(Refusal(options, "worker"), HasSubstr("worker.pem: Permission denied"));
  }
}

TEST_F(CertificateTest, NamesWhatIsMissing) {
  TlsOptions options = authority_.Place("worker");
  options.key.clear();
  options.ca.clear();
  EXPECT_THAT(Refusal(options, "worker"), HasSubstr("--tls-key, --tls-ca: missing"));
}

TEST_F(CertificateTest, RefusesAKeyOfAnotherCertificate) {
  const TlsOptions options = authority_.Place("worker");
  authority_.Write("worker-key.pem", authority_.Issue("worker").key_pem);
  EXPECT_THAT(Refusal(options, "worker"),
              HasSubstr("worker-key.pem: does not match the certificate"));
}

TEST_F(CertificateTest, RefusesAnEncryptedKeyWithoutAskingForItsPassphrase) {
  const TlsOptions options = authority_.Place("worker");
  authority_.Write("worker-key.pem",
                   "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n"
                   "-----END ENCRYPTED PRIVATE KEY-----\n");
  EXPECT_THAT(Refusal(options, "worker"), HasSubstr("is encrypted"));
}

TEST_F(CertificateTest, RefusesOwnCertificatesOutsideTheirDates) {
  EXPECT_THAT(Refusal(authority_.Place("a", authority_.Issue("worker", -3600, -60)), "worker"),
              HasSubstr("expired on 20"));
  EXPECT_THAT(Refusal(authority_.Place("b", authority_.Issue("worker", 3600, 7200)), "worker"),
              HasSubstr("is valid only from 20"));
}

TEST_F(CertificateTest, RefusesAnOwnCertificateOfAnotherRole) {
  EXPECT_THAT(Refusal(authority_.Place("gateway"), "worker"),
              AllOf(HasSubstr("spiffe://choir/gateway"), HasSubstr("the role of a worker")));
}

TEST_F(CertificateTest, AcceptsPeersOfItsAuthority) {
  EXPECT_EQ(Judge(authority_.Issue("router")), "accepted router");
  EXPECT_EQ(Judge(authority_.Issue("router"), PeerSide::kServer), "accepted router");
  EXPECT_EQ(Judge(authority_.Issue("tenant/acme")), "accepted tenant/acme");
}

TEST_F(CertificateTest, SaysWhyAPeerIsRefused) {
  EXPECT_EQ(Judge({}), "it shows no certificate");
  EXPECT_THAT(Judge(authority_.Issue("router", -3600, -60)),
              AllOf(HasSubstr("CN=router (spiffe://choir/router) expired on 20")));
  EXPECT_THAT(Judge(authority_.Issue("router", 3600, 7200)), HasSubstr("valid only from 20"));
  const TestAuthority other;
  EXPECT_THAT(Judge(other.Issue("router")), HasSubstr("is signed by no authority of --tls-ca"));
  // Also when it brings its authority along.
  EXPECT_THAT(Judge(other.Issue("router"), PeerSide::kClient, other.cert_pem()),
              HasSubstr("is signed by no authority of --tls-ca"));
}

TEST_F(CertificateTest, ASecondUriLeavesNoRole) {
  constexpr int64_t kHour = 3600;
  EXPECT_EQ(Judge(authority_.Issue("router", -kHour, kHour, {"https://example.org"})), "accepted ");
}

TEST_F(CertificateTest, ComparesRolesAsWholeSegments) {
  CertificateName name;
  name.spiffe = "spiffe://choir/worker/g0r1";
  for (const char* identity : {"worker", "worker/g0r1"}) {
    name.identity = identity;
    EXPECT_TRUE(CheckRole(name, {"router", "worker"}).ok()) << identity;
  }
  for (const char* identity : {"", "workers", "work", "router/worker"}) {
    name.identity = identity;
    EXPECT_FALSE(CheckRole(name, {"worker"}).ok()) << identity;
  }
  EXPECT_EQ(IdentityOf("spiffe://choir/worker", "choir"), "worker");
  EXPECT_EQ(IdentityOf("spiffe://choir.evil/worker", "choir"), "");
  EXPECT_EQ(IdentityOf("https://choir/worker", "choir"), "");
}

}  // namespace
}  // namespace choir
