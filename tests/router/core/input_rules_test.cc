#include "router/core/input_rules.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/tiny_model.h"

namespace choir {
namespace {

using nlohmann::json;

class InputRulesTest : public testing::Test {
 protected:
  InputRulesTest() {
    tokenizer_ = *Tokenizer::Load(model_.dir());
    rules_ = *ContentRules::Compile(
        {{.name = "mail", .pattern = "[a-z0-9.]{1,40}@[a-z0-9.]{1,40}", .replacement = "[MAIL]"},
         {.name = "digits", .pattern = "[0-9]{4,12}", .replacement = "#"},
         {.name = "lines", .pattern = R"(one\s{1,5}two)", .replacement = "-"},
         {.name = "begin", .pattern = "^from here", .replacement = "<"},
         {.name = "secret", .pattern = "project x", .action = ContentAction::kRefuse}});
  }

  ChatInput Applied(ChatInput chat) {
    RequestInput input;
    input.input_rules = rules_;
    input.content = std::move(chat);
    hits_.clear();
    error_ = ApplyInputRules(*tokenizer_, &input, &hits_);
    return std::get<ChatInput>(input.content);
  }
  json Message(const json& message) {
    return json::parse(Applied({.messages_json = json::array({message}).dump()}).messages_json)[0];
  }
  json Parts(const std::vector<std::string>& texts) {
    json parts = json::array();
    for (const std::string& text : texts) parts.push_back({{"type", "text"}, {"text", text}});
    json out = json::array();
    const json content = Message({{"role", "user"}, {"content", parts}})["content"];
    for (const json& part : content) {
      EXPECT_EQ(part["type"], "text");
      out.push_back(part["text"]);
    }
    return out;
  }
  void ExpectRefused(const std::string& param) {
    ASSERT_TRUE(error_.has_value());
    EXPECT_EQ(error_->code, "content_rule");
    EXPECT_EQ(error_->param, param);
    ASSERT_EQ(hits_.size(), 1u);
    EXPECT_EQ(hits_[0].rule, "secret");
  }

  const TinyModel model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const ContentRules> rules_;
  std::vector<RuleHits> hits_;
  std::optional<ApiError> error_;
};

// Templates join parts without anything between them, or by line ends.
TEST_F(InputRulesTest, PartsOfAMessageAreOneText) {
  EXPECT_EQ(Parts({"to bob@exa", "mple.com, and", " more"}), json({"to [MAIL]", ", and", " more"}));
  EXPECT_EQ(hits_.size(), 1u);
  EXPECT_EQ(hits_[0].count, 1u);
  EXPECT_EQ(Parts({"a 12", "3", "", "45 b", "c"}), json({"a #", "", "", " b", "c"}));
  EXPECT_EQ(Parts({"12345", "67 and 8901"}), json({"#", " and #"}));
  EXPECT_EQ(hits_[0].count, 2u);
  EXPECT_EQ(Parts({"say one", "two"}), json({"say -", ""}));
  EXPECT_EQ(Parts({"so", "from here on"}), json({"so", "< on"}));
  EXPECT_EQ(Parts({"quiet", "words"}), json({"quiet", "words"}));
  EXPECT_TRUE(hits_.empty());
  Parts({"about proj", "ect x"});
  ExpectRefused("messages");
}

TEST_F(InputRulesTest, PartsMayBeStringsAndOtherThings) {
  const json image = {{"type", "image_url"}, {"image_url", {{"url", "a@b"}}}};
  const json content =
      Message({{"role", "user"}, {"content", {"bob@exa", image, "mple.com"}}})["content"];
  EXPECT_EQ(content[0], "[MAIL]");
  EXPECT_EQ(content[1]["image_url"]["url"], "[MAIL]");
  EXPECT_EQ(content[2], "");
}

TEST_F(InputRulesTest, AMatchDoesNotReachIntoTheNextMessage) {
  const std::string messages =
      R"([{"role":"user","content":"proj"},{"role":"user","content":"ect x"}])";
  EXPECT_EQ(Applied({.messages_json = messages}).messages_json, messages);
  EXPECT_FALSE(error_.has_value());
}

TEST_F(InputRulesTest, WhatTheTemplateIsToldIsSeen) {
  const auto kwargs = [this](const json& given) {
    const ChatInput chat = Applied({.messages_json = "[]", .template_kwargs_json = given.dump()});
    return error_ ? json() : json::parse(chat.template_kwargs_json);
  };
  EXPECT_EQ(kwargs({{"model_identity", "bob@example.com"}, {"n", 5}, {"on", true}}),
            json({{"model_identity", "[MAIL]"}, {"n", 5}, {"on", true}}));
  EXPECT_EQ(kwargs({{"documents", {{{"title", "a@b"}}, "c@d"}}}),
            json({{"documents", {{{"title", "[MAIL]"}}, "[MAIL]"}}}));
  kwargs({{"model_identity", "project x"}});
  ExpectRefused("chat_template_kwargs");
  kwargs({{"a", {{"deep", {{"project x", 1}}}}}});
  ExpectRefused("chat_template_kwargs");
}

TEST_F(InputRulesTest, ToolsAreSeen) {
  const json tool = {
      {"type", "function"},
      {"function",
       {{"name", "ask"},
        {"description", "of a@b"},
        {"parameters", {{"type", "object"}, {"properties", {{"c@d", {{"type", "string"}}}}}}}}}};
  const ChatInput chat = Applied({.messages_json = "[]", .tools_json = json::array({tool}).dump()});
  ASSERT_FALSE(error_.has_value());
  const json function = json::parse(chat.tools_json)[0]["function"];
  EXPECT_EQ(function["description"], "of [MAIL]");
  EXPECT_EQ(function["parameters"]["properties"], json({{"[MAIL]", {{"type", "string"}}}}));
  Applied({.messages_json = "[]", .tools_json = R"([{"function":{"name":"project x"}}])"});
  ExpectRefused("tools");
}

TEST_F(InputRulesTest, RolesNamesAndArgumentsAreSeen) {
  EXPECT_EQ(Message({{"role", "user"}, {"name", "a@b"}, {"content", "x"}})["name"], "[MAIL]");
  EXPECT_EQ(Message({{"role", "to a@b"}, {"content", "x"}})["role"], "to [MAIL]");
  // Templates that show arguments as an object show what the escapes mean.
  const auto arguments = [this](const std::string& text) {
    const json call = {{"type", "function"}, {"function", {{"name", "f"}, {"arguments", text}}}};
    const json out = Message({{"role", "assistant"}, {"content", ""}, {"tool_calls", {call}}});
    return error_ ? json() : out["tool_calls"][0]["function"]["arguments"];
  };
  EXPECT_EQ(arguments(R"({"to": "a\u0040b"})"), R"({"to":"[MAIL]"})");
  EXPECT_EQ(arguments(R"({"to": "nobody"})"), R"({"to": "nobody"})");
  arguments(R"({"to": "\u0070roject x"})");
  ExpectRefused("messages");
}

}  // namespace
}  // namespace choir
