#include "common/tls/tls_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/tls/tls_report.h"
#include "tests/support/test_authority.h"

namespace choir {
namespace {

using ::testing::HasSubstr;

class TlsIdentityTest : public ::testing::Test {
 protected:
  std::shared_ptr<TlsIdentity> Open(const TlsOptions& options) {
    auto identity = TlsIdentity::Open(options, "worker");
    EXPECT_TRUE(identity.ok()) << identity.status();
    return identity.ok() ? *identity : nullptr;
  }
  TestAuthority authority_;
};

TEST_F(TlsIdentityTest, IsNothingWithoutFiles) { EXPECT_EQ(Open({}), nullptr); }

TEST_F(TlsIdentityTest, TakesReplacedFilesUpOnceTheyStandStill) {
  const auto identity = Open(authority_.Place("worker"));
  std::vector<std::string> told;
  identity->OnChange([&](const TlsMaterial& m) { told.push_back(m.cert_pem); });
  const KeyAndCertificate fresh = authority_.Issue("worker/g0r1");
  authority_.Write("worker-key.pem", fresh.key_pem);
  identity->Poll();  // between the two files
  EXPECT_EQ(identity->facts().problem, "");
  authority_.Write("worker.pem", fresh.cert_pem);
  identity->Poll();
  EXPECT_TRUE(told.empty());
  identity->Poll();
  EXPECT_THAT(told, ::testing::ElementsAre(fresh.cert_pem));
  EXPECT_EQ(identity->material()->key_pem, fresh.key_pem);
  EXPECT_EQ(identity->facts().name.identity, "worker/g0r1");
  identity->Poll();
  EXPECT_EQ(told.size(), 1u);
}

TEST_F(TlsIdentityTest, KeepsTheOldFilesWhenTheNewAreBrokenAndSaysSo) {
  const TlsOptions options = authority_.Place("worker");
  const auto identity = Open(options);
  Metrics metrics("worker");
  TlsReport report(&metrics, {{"grpc", identity}, {"https", nullptr}});
  EXPECT_TRUE(report.Refresh());
  const auto before = identity->material();
  authority_.Place("worker", authority_.Issue("worker", -3600, -60));
  identity->Poll();
  identity->Poll();
  EXPECT_EQ(identity->material(), before);
  EXPECT_THAT(identity->facts().problem, HasSubstr("expired on"));
  EXPECT_FALSE(report.Refresh());
  EXPECT_THAT(report.Json().dump(), HasSubstr("expired on"));
  authority_.Place("worker");
  identity->Poll();
  identity->Poll();
  EXPECT_NE(identity->material(), before);
  EXPECT_EQ(identity->facts().problem, "");
  EXPECT_TRUE(report.Refresh());
}

TEST_F(TlsIdentityTest, TakesFilesUpOnItsOwnThread) {
  const auto identity = Open(authority_.Place("worker"));
  std::mutex mu;
  std::condition_variable changed;
  bool told = false;
  identity->OnChange([&](const TlsMaterial&) {
    std::lock_guard lock(mu);
    told = true;
    changed.notify_all();
  });
  identity->Watch(std::chrono::milliseconds(5));
  authority_.Place("worker");
  std::unique_lock lock(mu);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(30), [&] { return told; }));
}

TEST_F(TlsIdentityTest, CountsWhomItRefuses) {
  const auto identity = Open(authority_.Place("worker"));
  Metrics metrics("worker");
  TlsReport report(&metrics, {{"grpc", identity}});
  identity->Refuse("10.0.0.9:1", Unauthenticated("it shows no certificate"));
  identity->Refuse("10.0.0.9:2", Unauthenticated("it shows no certificate"));
  EXPECT_EQ(identity->facts().refused, 2u);
  EXPECT_EQ(identity->facts().last_refused, "10.0.0.9:2: it shows no certificate");
  report.Refresh();
  EXPECT_THAT(metrics.Text(), HasSubstr("choir_tls_refused_peers_total{use=\"grpc\"} 2"));
}

}  // namespace
}  // namespace choir
