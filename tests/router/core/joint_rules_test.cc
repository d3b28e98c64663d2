#include "router/core/joint_rules.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "router/core/model_text.h"
#include "tests/support/tiny_model.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

constexpr char kBare[] = "{% for m in messages %}{{ m.content }}{% endfor %}";
constexpr char kMarked[] =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";

ordered_json Messages(const std::vector<std::string>& contents) {
  ordered_json messages = ordered_json::array();
  for (const std::string& content : contents) {
    messages.push_back({{"role", "user"}, {"content", content}});
  }
  return {{"messages", messages}};
}

class JointRulesTest : public testing::Test {
 protected:
  JointRulesTest() {
    rules_ = *ContentRules::Compile(
        {{.name = "secret", .pattern = "project x", .action = ContentAction::kRefuse},
         {.name = "card", .pattern = R"(\b[0-9]{8}\b)", .replacement = "#"},
         {.name = "password", .pattern = R"(password: ?\S{1,20})", .replacement = "-"},
         {.name = "maker", .pattern = "Alibaba", .action = ContentAction::kRefuse}});
  }

  // The rule's name; "": none.
  std::string Found(const std::string& text, const ordered_json& request) {
    renders_ = 0;
    const auto made = ChatTemplate::FromText(text, ordered_json::object());
    EXPECT_TRUE(made.ok()) << made.status();
    const auto render = [&](const ordered_json& asked) {
      ++renders_;
      return (*made)->Render(asked, Clock::Real(), {});
    };
    const auto prompt = render(request);
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    const ContentRule* rule = FindAcrossTexts(*rules_, *prompt, {*prompt}, request, render);
    return rule == nullptr ? "" : rule->name;
  }

  std::shared_ptr<const ContentRules> rules_;
  size_t renders_ = 0;
};

TEST_F(JointRulesTest, WhatSeveralTextsMakeTogetherIsFound) {
  EXPECT_EQ(Found(kBare, Messages({"about proj", "ect x"})), "secret");
  EXPECT_EQ(Found(kBare, Messages({"1234", "5678"})), "card");
  EXPECT_EQ(Found(kBare, Messages({"a", "p", "roj", "e", "ct ", "x", "b"})), "secret");
  ordered_json many = Messages(std::vector<std::string>(200, "word "));
  many["messages"][0]["content"] = "1234";
  many["messages"][199]["content"] = "5678";
  const std::string ends = "{{ messages[0].content }}{{ messages[199].content }}";
  EXPECT_EQ(Found(ends, many), "card");
}

TEST_F(JointRulesTest, WordsBetweenTextsKeepThemApart) {
  EXPECT_EQ(Found(kMarked, Messages({"about proj", "ect x", "1234", "5678"})), "");
  EXPECT_EQ(renders_, 1u);  // one scan is all it takes
}

TEST_F(JointRulesTest, TheTemplatesOwnWordsDoNotCount) {
  const std::string own = std::string("Made by Alibaba on 20240101.\n") + kBare;
  EXPECT_EQ(Found(own, Messages({"hello", "you"})), "");
  EXPECT_EQ(renders_, 2u);
  EXPECT_EQ(Found(own, Messages({"1234", "5678"})), "card");
}

// "I forgot my password:" is no password, whatever mark the template puts behind it.
TEST_F(JointRulesTest, OneTextWithTheTemplatesWordsDoesNotCount) {
  EXPECT_EQ(Found(kMarked, Messages({"hello", "my password:", "and", "so on"})), "");
  EXPECT_EQ(Found(kMarked, Messages({"my password:"})), "");
  EXPECT_EQ(Found(kBare, Messages({"hello", "my password:", "hunter2"})), "password");
}

TEST_F(JointRulesTest, KeysNumbersAndVariablesAreTexts) {
  ordered_json request = Messages({"hello"});
  request["tools"] = ordered_json::array({ordered_json::object({{"proj", "ect x"}})});
  const std::string pairs = "{% for k, v in tools[0].items() %}{{ k }}{{ v }}{% endfor %}";
  EXPECT_EQ(Found(pairs, request), "secret");
  request["tools"] =
      ordered_json::array({ordered_json::object({{"name", "1234"}, {"strict", 5678}})});
  EXPECT_EQ(Found(pairs, request), "");  // "name1234": no word begins with the digits
  EXPECT_EQ(Found("{{ tools[0].name }}{{ tools[0].strict }}", request), "card");
  request["kwargs"] = {{"first", "proj"}, {"second", "ect x"}};
  EXPECT_EQ(Found("{{ first }}{{ second }}", request), "secret");
}

// Each place counts: what two texts say elsewhere explains nothing here.
TEST_F(JointRulesTest, TheSameMatchOfSeveralPairsIsFound) {
  ordered_json request = Messages({"about proj", "ect x", "y", "about proj", "ect x"});
  request["messages"][1]["name"] = "z";
  EXPECT_EQ(Found(kBare, request), "secret");
  request = Messages({"1234", "5678", " x ", "1234", "5678"});
  request["messages"][1]["name"] = "z";
  EXPECT_EQ(Found(kBare, request), "card");
  // Nor does one text that says all of it.
  request = Messages({"project x", "|", "proj", "ect x"});
  EXPECT_EQ(Found(kBare, request), "secret");
}

// The leftmost match is the template's alone, and goes on as far as the texts do.
TEST_F(JointRulesTest, AMatchBehindTheTemplatesWordsIsFound) {
  rules_ = *ContentRules::Compile({{.name = "digits", .pattern = "[0-9]{8,16}"}});
  const std::string dated = "20240101{% for m in messages %}{{ m.content }}{% endfor %}";
  EXPECT_EQ(Found(dated, Messages({"1234", "5678"})), "digits");
  EXPECT_EQ(Found(dated, Messages({"1234", "a", "5678"})), "");
}

TEST_F(JointRulesTest, ATextThatTheTemplateChangesIsFound) {
  const std::string change =
      "{% for m in messages %}{{ (m.content | trim)[1:] | lower }}{% endfor %}";
  EXPECT_EQ(Found(change, Messages({" _PROJ ", "_ECT X"})), "secret");
  EXPECT_EQ(Found(change, Messages({" _project X ", "_a"})), "");
  const std::string part = "{% for m in messages %}{{ m.content.split('|')[1] }}{% endfor %}";
  EXPECT_EQ(Found(part, Messages({"a|proj|b", "c|ect x|d"})), "secret");
}

// Nobody writes the characters that texts are hidden by; who does is not believed.
TEST_F(JointRulesTest, WhatTextsAreHiddenByExplainsNothing) {
  EXPECT_EQ(Found(kMarked, Messages({"my password:", "and"})), "");
  EXPECT_EQ(Found(kMarked, Messages({"my password:", "\U000F0001"})), "password");
}

// In long chats with matches of the template's own between all messages.
TEST_F(JointRulesTest, AHundredPlacesOfTheTemplateAreExplained) {
  const std::string dated = "{% for m in messages %}On 20240101: {{ m.content }}\n{% endfor %}";
  EXPECT_EQ(Found(dated, Messages(std::vector<std::string>(100, "some words"))), "");
  EXPECT_EQ(renders_, 2u);
  const auto with = [&](const std::string& filter) {
    return "{% for m in messages %}On 20240101: {{ m.content | " + filter + " }}\n{% endfor %}";
  };
  const ordered_json spaced = Messages(std::vector<std::string>(100, "some Words "));
  EXPECT_EQ(Found(with("trim"), spaced), "");
  EXPECT_EQ(renders_, 2u);
  // Texts that are changed have to be looked for.
  EXPECT_EQ(Found(with("lower"), spaced), "");
  EXPECT_GT(renders_, 2u);
  EXPECT_LE(renders_, 301u);
}

// Then it cannot be told where a match comes from.
TEST_F(JointRulesTest, ATemplateThatFailsWithoutATextExplainsNothing) {
  const std::string picky =
      "{% for m in messages %}{% if m.content not in ['my password:', 'yes'] %}"
      "{{ raise_exception('what?') }}{% endif %}{{ m.content }}|{% endfor %}";
  EXPECT_EQ(Found(picky, Messages({"my password:", "yes"})), "password");
}

TEST_F(JointRulesTest, WhatIsTooMuchToLookIntoIsNotExplained) {
  ordered_json request = Messages({"my password:", "and", "so"});
  EXPECT_EQ(Found(kMarked, request), "");
  request["messages"][1]["content"] = std::string(kRenderedAgainMax / 2, 'a');
  EXPECT_EQ(Found(kMarked, request), "password");
}

TEST_F(JointRulesTest, AMarkOfTheTokenizerKeepsTextsApart) {
  const TinyModel model;
  model.Write("chat_template.jinja", "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}");
  const auto text = ModelText::Load(model.dir(), 16);
  ASSERT_TRUE(text.ok()) << text.status();
  using Stretches = std::vector<std::string_view>;
  const Tokenizer& tokenizer = (*text)->tokenizer();
  EXPECT_EQ(tokenizer.BetweenMarks("<|begin|>a <think>b<|end|><|end|>c"),
            (Stretches{"a <think>b", "c"}));
  EXPECT_EQ(tokenizer.BetweenMarks("<|end|>"), Stretches{});
  std::vector<RuleHits> hits;
  RequestInput input;
  // Its pattern would go on over the mark.
  input.input_rules = *ContentRules::Compile({{.name = "any", .pattern = "a[^x]{1,20}b"}});
  input.content = ChatInput{.messages_json = Messages({"a", "b"})["messages"].dump()};
  EXPECT_TRUE(
      std::holds_alternative<PreparedRequest>((*text)->Prepare(input, {}, Clock::Real(), &hits)));
}

TEST_F(JointRulesTest, AModelRefusesThePromptAndNamesTheRule) {
  const TinyModel model;
  model.Write("chat_template.jinja", kBare);
  const auto text = ModelText::Load(model.dir(), 16);
  ASSERT_TRUE(text.ok()) << text.status();
  std::vector<RuleHits> hits;
  const auto prepare = [&](const std::vector<std::string>& contents) {
    RequestInput input;
    input.input_rules = rules_;
    input.content = ChatInput{.messages_json = Messages(contents)["messages"].dump()};
    hits.clear();
    return (*text)->Prepare(input, {}, Clock::Real(), &hits);
  };
  const auto refused = prepare({"about proj", "ect x"});
  ASSERT_TRUE(std::holds_alternative<ApiError>(refused));
  EXPECT_EQ(std::get<ApiError>(refused).code, "content_rule");
  EXPECT_EQ(std::get<ApiError>(refused).param, "messages");
  EXPECT_NE(std::get<ApiError>(refused).message.find("'secret' refuses it where"),
            std::string::npos);
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].rule, "secret");
  EXPECT_TRUE(std::holds_alternative<PreparedRequest>(prepare({"about", "project y"})));
  EXPECT_TRUE(hits.empty());
}

}  // namespace
}  // namespace choir
