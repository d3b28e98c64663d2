// The connection to a real Redis that speaks TLS, with certificates good and bad.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>

#include "tests/router/limits/limit_world.h"
#include "tests/router/limits/redis_connection_fixture.h"
#include "tests/router/limits/redis_router.h"
#include "tests/support/redis_server.h"
#include "tests/support/sim_clock.h"
#include "tests/support/test_authority.h"

namespace choir {
namespace {

using testing::HasSubstr;

class RedisTlsTest : public RedisConnectionFixture {
 protected:
  // A server with this certificate, which takes clients of the authority.
  bool StartServer(const KeyAndCertificate& pair, bool demand_client = false) {
    const TlsOptions files = authority_.Place("server", pair);
    server_ = RedisServer::Start(RedisServerTls{.cert = files.cert,
                                                .key = files.key,
                                                .ca = authority_.Path("ca.pem"),
                                                .demand_client = demand_client});
    return server_ != nullptr;
  }
  TlsOptions Client() const {
    return {.prefix = "redis-", .file_prefix = "", .ca = authority_.Path("ca.pem")};
  }
  void Connect(const TlsOptions& tls, const std::string& url) {
    RedisConnectionFixture::Connect({.address = *ParseRedisUrl(url),
                                     .tls = tls,
                                     .script = "return {ARGV[1]}",
                                     .timeout = std::chrono::seconds(30),
                                     .retry_max = std::chrono::milliseconds(50)});
  }
  bool Up() {
    return inbox_.RunUntil([this] { return ups_ > 0; });
  }
  // Why it cannot connect.
  std::string Refusal(const TlsOptions& tls, const std::string& url) {
    Connect(tls, url);
    EXPECT_TRUE(inbox_.RunUntil([this] { return downs_ > 0; }));
    EXPECT_EQ(ups_, 0);
    return why_;
  }
  std::string Refusal(const TlsOptions& tls) { return Refusal(tls, server_->url()); }
  std::optional<std::string> Echo(const std::string& text) {
    std::optional<StatusOr<std::vector<std::string>>> got;
    connection_->Run({.keys = {}, .arguments = {text}}, [&](const auto& answer) { got = answer; });
    EXPECT_TRUE(inbox_.RunUntil([&] { return got.has_value(); }));
    if (!got || !got->ok() || (*got)->size() != 1) return std::nullopt;
    return (*got)->front();
  }

  TestAuthority authority_, other_;
  std::unique_ptr<RedisServer> server_;
};

#define START_OR_SKIP(...) \
  if (!StartServer(__VA_ARGS__)) GTEST_SKIP() << "there is no redis-server here"

TEST_F(RedisTlsTest, CallsAndAnswersOfAnySizeGoThrough) {
  START_OR_SKIP(authority_.Issue("redis"));
  Connect(Client(), server_->url());
  ASSERT_TRUE(Up()) << why_;
  for (const size_t size : {0u, 1u, 16u << 10, 3u << 20}) {
    const std::string text(size, 'x');
    EXPECT_TRUE(Echo(text) == text) << size;
  }
}

TEST_F(RedisTlsTest, CallsAreAnsweredInTheirOrder) {
  START_OR_SKIP(authority_.Issue("redis"));
  Connect(Client(), server_->url());
  ASSERT_TRUE(Up()) << why_;
  std::vector<std::string> wanted, got;
  for (int i = 0; i < 1000; ++i) {
    wanted.push_back(std::to_string(i));
    connection_->Run({.keys = {}, .arguments = {wanted.back()}}, [&](const auto& answer) {
      got.push_back(answer.ok() ? answer->front() : MessageOf(answer.status()));
    });
  }
  ASSERT_TRUE(inbox_.RunUntil([&] { return got.size() == wanted.size(); }));
  EXPECT_EQ(got, wanted);
}

TEST_F(RedisTlsTest, AHostNameIsLookedUpAndJudged) {
  START_OR_SKIP(authority_.IssueHost("localhost"));
  Connect(Client(), server_->url("localhost"));
  EXPECT_TRUE(Up()) << why_;
}

TEST_F(RedisTlsTest, AnAddressThatIsNotInTheCertificateIsRefused) {
  START_OR_SKIP(authority_.IssueHost("localhost"));
  EXPECT_THAT(Refusal(Client()), HasSubstr("is for another host"));
}

TEST_F(RedisTlsTest, ANameThatIsNotInTheCertificateIsRefused) {
  START_OR_SKIP(authority_.IssueHost("127.0.0.1"));
  EXPECT_THAT(Refusal(Client(), server_->url("localhost")), HasSubstr("is for another host"));
}

TEST_F(RedisTlsTest, AnotherAuthorityIsRefused) {
  START_OR_SKIP(other_.Issue("redis"));
  EXPECT_THAT(Refusal(Client()),
              HasSubstr("is signed by no authority of --redis-ca " + authority_.Path("ca.pem")));
}

TEST_F(RedisTlsTest, WithoutACaOnlyTheSystemsAuthoritiesAreTrusted) {
  START_OR_SKIP(authority_.Issue("redis"));
  EXPECT_THAT(Refusal({}), HasSubstr("is signed by no authority of this system"));
}

TEST_F(RedisTlsTest, AnExpiredCertificateIsRefused) {
  START_OR_SKIP(authority_.Issue("redis", -TestAuthority::kDay, -60));
  EXPECT_THAT(Refusal(Client()), HasSubstr("expired on"));
}

TEST_F(RedisTlsTest, AServerThatDemandsACertificateGetsIt) {
  START_OR_SKIP(authority_.Issue("redis"), /*demand_client=*/true);
  TlsOptions tls = Client();
  const TlsOptions own = authority_.Place("client", authority_.Issue("router"));
  tls.cert = own.cert;
  tls.key = own.key;
  Connect(tls, server_->url());
  ASSERT_TRUE(Up()) << why_;
  EXPECT_EQ(Echo("hi"), "hi");
}

TEST_F(RedisTlsTest, AServerThatDemandsACertificateTurnsAwayWhoHasNone) {
  START_OR_SKIP(authority_.Issue("redis"), /*demand_client=*/true);
  EXPECT_THAT(Refusal(Client()), HasSubstr("demands a certificate: give redis.cert"));
}

TEST_F(RedisTlsTest, AServerThatDemandsACertificateTurnsAwayThatOfAnotherAuthority) {
  START_OR_SKIP(authority_.Issue("redis"), /*demand_client=*/true);
  TlsOptions tls = Client();
  const TlsOptions own = authority_.Place("client", other_.Issue("router"));
  tls.cert = own.cert;
  tls.key = own.key;
  EXPECT_THAT(Refusal(tls), HasSubstr("TLS: "));
}

TEST_F(RedisTlsTest, FilesThatAreReplacedCountForTheNextConnection) {
  START_OR_SKIP(other_.Issue("redis"));
  EXPECT_THAT(Refusal(Client()), HasSubstr("no authority"));
  authority_.Write("ca.pem", "nonsense");
  ASSERT_TRUE(inbox_.RunUntil([this] { return why_.find("holds no PEM") != std::string::npos; }));
  authority_.Write("ca.pem", other_.cert_pem());
  ASSERT_TRUE(Up()) << why_;
  EXPECT_EQ(Echo("hi"), "hi");
}

TEST_F(RedisTlsTest, AServerThatIsLostAndBackIsTalkedToAgain) {
  START_OR_SKIP(authority_.Issue("redis"));
  Connect(Client(), server_->url());
  ASSERT_TRUE(Up()) << why_;
  server_->Kill();
  ASSERT_TRUE(inbox_.RunUntil([this] { return downs_ > 0; }));
  EXPECT_EQ(Echo("lost"), std::nullopt);
  ASSERT_TRUE(server_->Restart());
  ASSERT_TRUE(inbox_.RunUntil([this] { return ups_ == 2; })) << why_;
  EXPECT_EQ(Echo("back"), "back");
}

TEST_F(RedisTlsTest, PlainTextAtATlsServerIsNoConnection) {
  START_OR_SKIP(authority_.Issue("redis"));
  std::string url = server_->url();
  url.erase(url.find('s', 5), 1);
  EXPECT_NE(Refusal({}, url), "");
}

TEST_F(RedisTlsTest, LimitsAreCountedOverTls) {
  START_OR_SKIP(authority_.Issue("redis"));
  SimClock clock;
  RedisRouter first({.name = "a", .url = server_->url(), .tls = Client()}, &clock);
  RedisRouter second({.name = "b", .url = server_->url(), .tls = Client()}, &clock);
  const std::vector<RedisRouter*> both = {&first, &second};
  ASSERT_TRUE(RunUntil(both, [&] {
    return !first.backend().status().degraded && !second.backend().status().degraded;
  }));
  const LimitScopes scopes = ScopesOf({{"tenant:a", LimitRules{.concurrency = 1}}});
  const auto admits = [&](RedisRouter& router) {
    std::optional<LimitAnswer> got;
    router.backend().Call({.op = LimitOp::kAdmit, .scopes = scopes},
                          [&](const LimitAnswer& answer) { got = answer; });
    EXPECT_TRUE(RunUntil(both, [&] { return got.has_value(); }));
    return got && !got->refusal;
  };
  EXPECT_TRUE(admits(first));
  EXPECT_FALSE(admits(second)) << "the other router's one runs";
}

}  // namespace
}  // namespace choir
