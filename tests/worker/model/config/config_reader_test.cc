// One problem at a time, by key and value; everything else reads straight through.
#include "worker/model/config/config_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace choir {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ConfigReader, KeepsTheFirstProblemAndGoesOn) {
  const json config = {{"a", "x"}, {"b", -1}, {"c", 7}};
  ConfigReader reader(config, "D/config.json");
  EXPECT_EQ(reader.Int({"a"}, 1, 10), 1);
  EXPECT_EQ(reader.Int({"b"}, 1, 10, 3), 3);
  EXPECT_EQ(reader.Int({"c"}, 1, 10), 7);
  EXPECT_THAT(MessageOf(reader.status()),
              HasSubstr("D/config.json: a: \"x\" is not a whole number from 1 to 10"));
}

TEST(ConfigReader, TakesTheFirstNameThatIsThereAndNotNull) {
  const json config = {{"old", nullptr}, {"new", 4.0}, {"newest", 5}};
  ConfigReader reader(config, "c");
  EXPECT_EQ(reader.Int({"old", "new", "newest"}, 1, 10), 4);
  EXPECT_TRUE(reader.IsNull("old"));
  EXPECT_FALSE(reader.Has("old"));
  EXPECT_TRUE(reader.status().ok());
}

TEST(ConfigReader, AnAbsentKeyNeedsADefault) {
  const json config = json::object();
  ConfigReader reader(config, "c");
  EXPECT_EQ(reader.Int({"a", "b"}, 1, 10, 6), 6);
  EXPECT_TRUE(reader.status().ok());
  reader.Int({"a", "b"}, 1, 10);
  EXPECT_THAT(MessageOf(reader.status()), HasSubstr("c: a: is missing"));
}

TEST(ConfigReader, ReadsListsWithinBounds) {
  const json config = {{"ints", {1, 2.0, 3}}, {"texts", {"a", "b"}}};
  ConfigReader reader(config, "c");
  EXPECT_THAT(reader.Ints("ints", 0, 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(reader.Texts("texts"), ElementsAre("a", "b"));
  EXPECT_THAT(reader.Ints("none", 0, 3), IsEmpty());
  EXPECT_THAT(reader.Texts("none"), IsEmpty());
  EXPECT_TRUE(reader.status().ok());
}

TEST(ConfigReader, RefusesListsOfOtherThings) {
  const auto problem = [](const json& value, bool texts) {
    const json config = {{"list", value}};
    ConfigReader reader(config, "c");
    texts ? void(reader.Texts("list")) : void(reader.Ints("list", 0, 3));
    return reader.status().ok() ? "" : MessageOf(reader.status());
  };
  EXPECT_THAT(problem({1, 4}, false), HasSubstr("list: 4 is not a whole number from 0 to 3"));
  EXPECT_THAT(problem({1, nullptr}, false), HasSubstr("list: null"));
  EXPECT_THAT(problem({"a", 1}, true), HasSubstr("list: 1 is not a string"));
  EXPECT_THAT(problem("a", true), HasSubstr("is not a list"));
  EXPECT_EQ(problem(json::array_t(4096, 1), false), "");
  EXPECT_THAT(problem(json::array_t(4097, 1), false), HasSubstr("at most 4096 entries"));
}

TEST(ConfigReader, ASwitchNamesWhatIsKnown) {
  const json config = {{"act", "gelu"}};
  ConfigReader reader(config, "c");
  reader.OneOf("other", {"silu"}, "remedy");
  EXPECT_TRUE(reader.status().ok());
  reader.OneOf("act", {"silu", "relu"}, "remedy");
  EXPECT_THAT(MessageOf(reader.status()),
              HasSubstr("act: \"gelu\" is not supported (known: silu, relu); remedy"));
}

TEST(ConfigReader, WhatMustBeAbsentMayBeOff) {
  for (const json& off : {json(nullptr), json(false), json(0), json(0.0)}) {
    const json config = {{"key", off}};
    ConfigReader reader(config, "c");
    reader.Absent("key", "remedy");
    EXPECT_TRUE(reader.status().ok()) << off;
  }
  for (const json& on : {json(true), json(1), json(json::object()), json("")}) {
    const json config = {{"key", on}};
    ConfigReader reader(config, "c");
    reader.Absent("key", "remedy");
    EXPECT_THAT(MessageOf(reader.status()), HasSubstr("is not supported; remedy")) << on;
  }
}

TEST(ConfigReader, ALongValueIsCutInTheMessage) {
  const json config = {{"a", std::string(5000, 'x')}};
  ConfigReader reader(config, "c");
  reader.Int({"a"}, 1, 10, 1);
  EXPECT_LT(reader.status().message().size(), 200u);
}

}  // namespace
}  // namespace choir
