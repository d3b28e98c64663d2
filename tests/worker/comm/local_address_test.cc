#include "worker/comm/local_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;

TEST(LocalAddress, TakesHostsApart) {
  EXPECT_EQ(HostOf("a.b:70"), "a.b");
  EXPECT_EQ(HostOf("[::1]:70"), "::1");
  EXPECT_TRUE(IsWildcard(HostOf("0.0.0.0:1")));
  EXPECT_TRUE(IsWildcard(HostOf("[::]:1")));
  EXPECT_TRUE(IsLoopbackHost("127.0.0.1") && IsLoopbackHost("localhost") && IsLoopbackHost("::1"));
  EXPECT_FALSE(IsLoopbackHost("10.0.0.1") || IsWildcard("10.0.0.1"));
}

TEST(LocalAddress, ANamedLoopbackIsTakenAnAccidentalOneIsNot) {
  EXPECT_EQ(MeshAddress({.group_listen = "127.0.0.1"}).value(), "127.0.0.1");
  const auto accidental = MeshAddress({.listen = "127.0.0.1:7100"});
  EXPECT_THAT(MessageOf(accidental.status()), HasSubstr("--group-listen"));
  EXPECT_THAT(MessageOf(accidental.status()), HasSubstr("127.0.0.1 is loopback"));
}

TEST(LocalAddress, AWildcardMeansTheWayToTheLeader) {
  const auto towards = MeshAddress({.listen = "0.0.0.0:7100", .leader = "127.0.0.1:7100"});
  EXPECT_THAT(MessageOf(towards.status()), HasSubstr("127.0.0.1 is loopback"));
}

TEST(LocalAddress, AnotherMachinesAddressIsRefusedByName) {
  const auto foreign = MeshAddress({.group_listen = "192.0.2.1"});
  EXPECT_THAT(MessageOf(foreign.status()), HasSubstr("192.0.2.1 is no address of this machine"));
}

}  // namespace
}  // namespace choir
