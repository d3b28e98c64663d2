#include "gateway/http/request_id.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(RequestIdTest, ClientsIdsAreLimitedInLettersAndLength) {
  EXPECT_TRUE(IsRequestId("abc.DEF-1_2"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'x')));
  for (const std::string& bad : {std::string(), std::string(129, 'x'), std::string("a b"),
                                 std::string("\xc3\xa9"), std::string("a\r")}) {
    EXPECT_FALSE(IsRequestId(bad)) << bad;
  }
}

TEST(RequestIdTest, MadeIdsAreIdsAndDiffer) {
  const std::string one = MakeRequestId(), two = MakeRequestId();
  EXPECT_TRUE(IsRequestId(one)) << one;
  EXPECT_NE(one, two);
}

}  // namespace
}  // namespace choir
