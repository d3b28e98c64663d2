#include "router/rpc/config_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kStart[] =
    "router: {max_requests: 10, audit: {class: bounded, dir: /a}, workers: [a, b],\n"
    "         limits: {qps: 5}, policy: {name: least_load}}\n"
    "gateway: {listen: 'x:1'}\n";

TEST(KeysForTheNextStart, AreThoseThatOnlyAStartTakesUp) {
  EXPECT_THAT(KeysForTheNextStart(kStart, kStart), IsEmpty());
  EXPECT_THAT(KeysForTheNextStart(
                  kStart,
                  "router: {audit: {class: enforced, dir: /a}, workers: [a], request_timeout: 5s,\n"
                  "         limits: {qps: 6}, policy: {name: sticky_user}, tenants: {a: {}}}\n"
                  "gateway: {listen: 'x:2'}\n"),
              ElementsAre("router.audit.class", "router.max_requests", "router.request_timeout",
                          "router.workers"));
}

TEST(KeysForTheNextStart, DoNotChangeByTheWayTheyAreWritten) {
  EXPECT_THAT(KeysForTheNextStart("router: {max_requests: 10, workers: [a, b], admin: }",
                                  "# less\nrouter:\n  workers: [a, b]\n  max_requests: 10\n"),
              IsEmpty());
  EXPECT_THAT(KeysForTheNextStart("", "router: {max_requests: 10}"),
              ElementsAre("router.max_requests"));
  EXPECT_THAT(KeysForTheNextStart("router: {", ""), IsEmpty());
}

TEST(ConfigChanges, TellTheKeysUntilTheyAreAsAtTheStart) {
  const TempDir dir;
  const std::string file = dir.path() + "/config.yaml";
  std::ofstream(file) << kStart;
  ConfigChanges changes(file);
  EXPECT_THAT(changes.OnRead("router: {max_requests: 10, audit: {class: bounded, dir: /a}}"),
              ElementsAre("router.workers"));
  EXPECT_THAT(changes.OnRead(kStart), IsEmpty());
}

}  // namespace
}  // namespace choir
