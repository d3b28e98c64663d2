#include "router/identity/rights.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

Rights Make(const std::vector<std::string>& models, const std::vector<std::string>& networks) {
  Rights rights;
  for (const std::string& model : models) EXPECT_TRUE(AddModel(model, &rights).ok());
  for (const std::string& network : networks) EXPECT_TRUE(AddNetwork(network, &rights).ok());
  return rights;
}

TEST(RightsTest, WithoutRestrictionsAllIsAllowed) {
  EXPECT_FALSE(CheckRights({}, "any", "10.0.0.1"));
  EXPECT_FALSE(CheckRights({}, "any", "unix:/run/choir"));
  EXPECT_FALSE(CheckRights({}, "", ""));
}

TEST(RightsTest, AModelThatIsNotNamedIsForbiddenAndTheErrorNamesIt) {
  const Rights rights = Make({"a", "b"}, {});
  EXPECT_FALSE(CheckRights(rights, "b", ""));
  for (const char* model : {"c", "A", "a ", "ab"}) {
    const auto error = CheckRights(rights, model, "");
    ASSERT_TRUE(error) << model;
    EXPECT_EQ(error->http, 403);
    EXPECT_EQ(error->type, "permission_error");
    EXPECT_EQ(error->code, "permission_denied");
    EXPECT_EQ(error->param, "model");
    EXPECT_EQ(error->retry_after_seconds, 0);
  }
  EXPECT_FALSE(CheckRights(rights, "", "")) << "no model is asked for";
}

TEST(RightsTest, ASourceOutsideTheNetworksIsForbiddenHoweverItIsWritten) {
  const Rights rights = Make({}, {"10.0.0.0/8", "2001:db8::/32"});
  for (const char* source : {"10.1.2.3", "ipv4:10.1.2.3:443", "::ffff:10.1.2.3",
                             "ipv6:%5B2001:db8::7%5D:443", "[2001:db8::7]:1"}) {
    EXPECT_FALSE(CheckRights(rights, "m", source)) << source;
  }
  for (const char* source : {"11.0.0.1", "", "unix:/run/choir", "10.1.2", "ipv6:[2001:db9::1]:1",
                             "example.org:80", "10.1.2.3, 11.0.0.1"}) {
    const auto error = CheckRights(rights, "m", source);
    ASSERT_TRUE(error) << source;
    EXPECT_EQ(error->http, 403);
    EXPECT_EQ(error->param, "");
  }
}

TEST(RightsTest, TheModelIsLookedAtBeforeTheSource) {
  EXPECT_EQ(CheckRights(Make({"a"}, {"10.0.0.0/8"}), "b", "11.0.0.1")->param, "model");
}

TEST(RightsTest, ListsAreBounded) {
  Rights rights;
  for (size_t i = 0; i < kRightsEntriesMax; ++i) {
    ASSERT_TRUE(AddModel("m", &rights).ok());
    ASSERT_TRUE(AddNetwork("10.0.0.0/8", &rights).ok());
  }
  EXPECT_FALSE(AddModel("m", &rights).ok());
  EXPECT_FALSE(AddNetwork("10.0.0.0/8", &rights).ok());
  EXPECT_FALSE(AddModel(std::string(kModelNameMax + 1, 'm'), &rights).ok());
}

}  // namespace
}  // namespace choir
