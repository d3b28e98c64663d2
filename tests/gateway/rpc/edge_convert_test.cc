#include "gateway/rpc/edge_convert.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

TEST(EdgeConvertTest, SecondsAreShortAndNeverLess) {
  for (const auto& [seconds, text] : {std::pair{0.0, "0s"},
                                      {1.5, "1.5s"},
                                      {60.0, "60s"},
                                      {0.2, "0.2s"},
                                      {0.0001, "0.001s"},
                                      {86399.1231, "86399.124s"},
                                      {-1.0, "0s"},
                                      {12.0000000001, "12s"}}) {
    EXPECT_EQ(SecondsText(seconds), text);
  }
}

TEST(EdgeConvertTest, LimitsBecomeHeadersOfAnswersAndErrors) {
  v1::EdgeLimit limit;
  limit.set_name("tokens");
  limit.set_limit(1000);
  limit.set_remaining(250);
  limit.set_reset_seconds(45);
  const Headers headers = {{"x-ratelimit-limit-tokens", "1000"},
                           {"x-ratelimit-remaining-tokens", "250"},
                           {"x-ratelimit-reset-tokens", "45s"}};
  v1::EdgeAccepted accepted;
  *accepted.add_limits() = limit;
  EXPECT_EQ(ToAccepted(accepted).headers, headers);
  v1::EdgeError error;
  *error.add_limits() = limit;
  EXPECT_EQ(ToRestError(error).limit_headers, headers);
}

}  // namespace
}  // namespace choir
