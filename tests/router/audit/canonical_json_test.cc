#include "router/audit/canonical_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace choir {
namespace {

std::string Canonical(const std::string& text) {
  return CanonicalJson(nlohmann::json::parse(text));
}

TEST(CanonicalJsonTest, PrintsTheExampleOfRfc8785) {
  EXPECT_EQ(
      Canonical(R"({"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
    "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]})"),
      "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],"
      "\"string\":\"\xE2\x82\xAC$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
}

TEST(CanonicalJsonTest, SortsKeysByUtf16Units) {
  EXPECT_EQ(Canonical("{\"\\ufb33\":1,\"\\ud83d\\ude00\":2,\"\\u20ac\":3,\"1\":4,\"\\r\":5,"
                      "\"\\u00f6\":6,\"\":7,\"11\":8}"),
            "{\"\":7,\"\\r\":5,\"1\":4,\"11\":8,\"\xC3\xB6\":6,\"\xE2\x82\xAC\":3,"
            "\"\xF0\x9F\x98\x80\":2,\"\xEF\xAC\xB3\":1}");
}

TEST(CanonicalJsonTest, PrintsNumbersAsEcmaScriptDoes) {
  EXPECT_EQ(
      Canonical("[0,-0.0,1.0,-1.5,1e-6,1e-7,123456789012345680000.0,1e21,5e-324,9007199254740991]"),
      "[0,0,1,-1.5,0.000001,1e-7,123456789012345680000,1e+21,5e-324,9007199254740991]");
}

TEST(CanonicalJsonTest, TellsWhereAMemberWouldBegin) {
  for (const char* object : {R"({"a":{"m":1},"z":2})", R"({"ma":"{","n":[{"m":3}]})"}) {
    nlohmann::json value = nlohmann::json::parse(object);
    size_t place = 0;
    std::string text = CanonicalJson(value, "m", &place);
    EXPECT_EQ(text, CanonicalJson(value));
    value["m"] = 7;
    EXPECT_EQ(text.insert(place, "\"m\":7,"), CanonicalJson(value));
  }
}

TEST(CanonicalJsonTest, TakesOnlyItsOwnTextBack) {
  EXPECT_TRUE(ParseCanonical(R"({"a":1,"b":[2.5,"x"]})").ok());
  for (const char* text : {R"({"b":1,"a":1})", R"({"a": 1})", R"({"a":1.0})", R"({"a":1,"a":1})",
                           R"({"a":9007199254740993})", R"([1])", R"({"a":1)", "", R"({"a":1} )",
                           "{\"a\":\"\\u0041\"}", "{\"a\":\"\xff\"}"}) {
    EXPECT_FALSE(ParseCanonical(text).ok()) << text;
  }
}

}  // namespace
}  // namespace choir
