#include "common/tls/tls_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;

TEST(TlsOptionsTest, KnowsWhatStaysOnThisMachine) {
  for (const char* address : {"127.0.0.1:80", "127.8.9.1:0", "localhost:80", "[::1]:80", "::1:80",
                              "unix:/run/x", "ipv4:127.0.0.1:7100", "dns:///localhost:7100"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:80", "[::]:80", ":80", "10.0.0.1:80", "worker-0:7100", "localhost.evil:80",
        "128.0.0.1:80", "127.0.0.1.evil:80", "dns:///workers.choir:7100", "[fe80::1]:80"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST(TlsOptionsTest, RefusesPlainTextBeyondLoopbackAndNamesTheOptions) {
  TlsOptions options;
  options.prefix = "router-";
  EXPECT_TRUE(CheckTlsNeed(options, "--router", "127.0.0.1:7070").ok());
  const Status refused = CheckTlsNeed(options, "--router", "10.0.0.1:7070");
  for (const char* part :
       {"--router 10.0.0.1:7070", "--router-tls-cert", "--router-tls-key", "--router-insecure"}) {
    EXPECT_THAT(MessageOf(refused), HasSubstr(part));
  }
  options.insecure = true;
  EXPECT_TRUE(CheckTlsNeed(options, "--router", "10.0.0.1:7070").ok());
  options.insecure = false;
  options.cert = "x";
  EXPECT_TRUE(CheckTlsNeed(options, "--router", "10.0.0.1:7070").ok());
}

}  // namespace
}  // namespace choir
