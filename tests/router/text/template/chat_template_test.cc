// The border of the interpreter: directories, special tokens, transformers' conventions on
// messages.
#include "router/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

std::string Render(const std::string& text, const Json& request,
                   const Json& variables = Json::object()) {
  const auto parsed = ChatTemplate::FromText(text, variables);
  if (!parsed.ok()) return "load: " + MessageOf(parsed.status());
  const auto rendered = (*parsed)->Render(request, Clock::Real(), TemplateLimits());
  return rendered.ok() ? *rendered : "error: " + MessageOf(rendered.status());
}

Json User(const Json& content) {
  return {{"messages", {{{"role", "user"}, {"content", content}}}}};
}

class ModelDir : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(dir_ + "/" + name).parent_path());
    std::ofstream(dir_ + "/" + name) << text;
  }
  std::string RenderDir(const Json& request) {
    const auto loaded = ChatTemplate::Load(dir_);
    if (!loaded.ok()) return "load: " + MessageOf(loaded.status());
    const auto rendered = (*loaded)->Render(request, Clock::Real(), TemplateLimits());
    return rendered.ok() ? *rendered : "error: " + MessageOf(rendered.status());
  }

  const TempDir temp_;
  const std::string dir_ = temp_.path();
};

TEST_F(ModelDir, PrefersTheJinjaFileToTheConfig) {
  Write("tokenizer_config.json", R"({"chat_template": "config", "bos_token": "<s>"})");
  EXPECT_EQ(RenderDir(User("x")), "config");
  Write("chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(RenderDir(User("x")), "file <s>");
}

TEST_F(ModelDir, IsNotFoundWithoutATemplate) {
  Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(ChatTemplate::Load(dir_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelDir, SaysWhetherDirectoryTemplateOrSyntaxIsMissing) {
  EXPECT_THAT(RenderDir(User("x")),
              testing::StartsWith("load: " + dir_ + ": has no chat template"));
  EXPECT_THAT(MessageOf(ChatTemplate::Load(dir_ + "/gone").status()),
              testing::StartsWith("there is no directory " + dir_ + "/gone;"));
  Write("tokenizer_config.json", "{\n nul}");
  const std::string error = RenderDir(User("x"));
  EXPECT_THAT(error,
              testing::HasSubstr("/tokenizer_config.json: JSON: malformed at line 2, column 5"));
  EXPECT_THAT(error, testing::Not(testing::HasSubstr("exception")));
}

TEST_F(ModelDir, PicksToolUseAmongNamedTemplatesWhenToolsAreGiven) {
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "plain"},
                              {"name": "tool_use", "template": "tools"}]})");
  Json request = User("x");
  EXPECT_EQ(RenderDir(request), "plain");
  request["tools"] = Json::array();
  EXPECT_EQ(RenderDir(request), "tools");
  request["tools"] = nullptr;
  EXPECT_EQ(RenderDir(request), "plain");
}

TEST_F(ModelDir, TakesTheTemplateThatKwargsName) {
  Write("tokenizer_config.json",
        R"({"chat_template": {"rag": "rag {{ documents[0].text }}", "tool_use": "tools"}})");
  Json request = User("x");
  EXPECT_THAT(RenderDir(request), testing::HasSubstr("none is named 'default': name one of rag, "));
  request["kwargs"] = {{"chat_template", "rag"}, {"documents", {{{"text", "d"}}}}};
  EXPECT_EQ(RenderDir(request), "rag d");
  request["kwargs"] = {{"chat_template", "none such"}};
  EXPECT_THAT(RenderDir(request),
              testing::HasSubstr("chat_template \"none such\" is not among the model's templates: "
                                 "rag, tool_use"));
}

TEST_F(ModelDir, ReadsTokensAsTextAndAsObjects) {
  Write("special_tokens_map.json", R"({"bos_token": "old", "unk_token": {"content": "<unk>"}})");
  Write("tokenizer_config.json", R"({"bos_token": {"__type": "AddedToken", "content": "<s>"},
      "eos_token": null, "extra_special_tokens": {"image_token": "<img>"}})");
  Write("chat_template.jinja",
        "{{ bos_token }}{{ unk_token }}{{ image_token }}{{ eos_token is defined }}");
  EXPECT_EQ(RenderDir(User("x")), "<s><unk><img>False");
}

TEST_F(ModelDir, NamesTheTemplateThatDoesNotParse) {
  Write("chat_template.jinja", "a\n{% nonsense %}");
  EXPECT_THAT(
      RenderDir(User("x")),
      testing::HasSubstr(dir_ + "/chat_template.jinja: template 'default': chat template, line 2"));
}

TEST(ChatTemplate, DefinesToolsAndDocumentsAlways) {
  EXPECT_EQ(Render("{{ tools is none }} {{ documents is none }}", User("x")), "True True");
}

TEST(ChatTemplate, ShowsNullContentAsEmptyAndDropsOtherNulls) {
  const Json request = {
      {"messages", {{{"role", "assistant"}, {"content", nullptr}, {"tool_calls", nullptr}}}}};
  EXPECT_EQ(Render("{{ messages[0]|tojson }}", request), R"({"role": "assistant", "content": ""})");
}

TEST(ChatTemplate, FindsReasoningUnderItsOtherNames) {
  const Json request = {
      {"messages", {{{"role", "assistant"}, {"content", "c"}, {"reasoning", "r"}}}}};
  EXPECT_EQ(Render("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", request), "rr");
}

TEST(ChatTemplate, JoinsTextPartsForTemplatesThatTakeText) {
  const Json parts = {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}};
  EXPECT_EQ(Render("{{ messages[0].content }}", User(parts)), "a\nb");
  EXPECT_THAT(
      Render("{{ messages[0].content }}", User(Json::array({{{"type", "image_url"}}}))),
      testing::HasSubstr("messages[0].content: this model's chat template takes text only"));
}

TEST(ChatTemplate, PassesPartsToTemplatesThatLoopOverThem) {
  const Json parts = {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}};
  for (const char* text :
       {"{% for p in messages[0]['content'] %}[{{ p.text }}]{% endfor %}",
        "{% set c = messages[0].content %}{% for p in c %}[{{ p.text }}]{% endfor %}",
        "{% macro show(content) %}{% for p in content %}[{{ p.text }}]{% endfor %}"
        "{% endmacro %}{{ show(messages[0].content) }}"}) {
    EXPECT_EQ(Render(text, User(parts)), "[a][b]");
  }
}

TEST(ChatTemplate, LetsKwargsOverrideTokensAndNotMessages) {
  Json request = User("x");
  request["kwargs"] = {{"bos_token", "mine"}, {"flag", true}};
  EXPECT_EQ(Render("{{ bos_token }}{{ flag }}", request, {{"bos_token", "<s>"}}), "mineTrue");
  request["kwargs"] = {{"messages", Json::array()}};
  EXPECT_THAT(Render("", request), testing::HasSubstr("'messages' cannot be given in kwargs"));
}

// What a client sends, adapted and rendered.
std::string RenderAdapted(const std::string& text, Json request) {
  const auto parsed = ChatTemplate::FromText(text, Json::object());
  if (!parsed.ok()) return "load: " + MessageOf(parsed.status());
  (*parsed)->Adapt(&request);
  const auto rendered = (*parsed)->Render(request, Clock::Real(), TemplateLimits());
  return rendered.ok() ? *rendered : "error: " + MessageOf(rendered.status());
}

TEST(ChatTemplate, ParsesArgumentsOfToolCallsWhereTheTemplateShowsObjects) {
  const auto request = [](const Json& arguments) {
    return Json{{"messages",
                 {{{"role", "assistant"},
                   {"content", nullptr},
                   {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", arguments}}}}}}}}}};
  };
  const auto loop = [](const std::string& body) {
    return "{% for m in messages %}{% for c in m.tool_calls or [] %}{% set a = "
           "c.function.arguments "
           "%}" +
           body + "{% endfor %}{% endfor %}";
  };
  const Json text = "{\"b\":1,\"a\":\"\u00e9\"}";
  EXPECT_EQ(RenderAdapted(loop("{{ a|tojson }}"), request(text)), R"({"b": 1, "a": "é"})");
  EXPECT_EQ(RenderAdapted(loop("{{ a if a is string else a|tojson }}"), request(text)),
            R"({"b": 1, "a": "é"})");
  EXPECT_EQ(
      RenderAdapted(loop("{% for k, v in a.items() %}{{ k }}={{ v }};{% endfor %}"), request(text)),
      "b=1;a=é;");
  // Of these, one takes text only and the other would print a dict of Python.
  EXPECT_EQ(RenderAdapted(loop("{{ '<' + a + '>' }}"), request(text)),
            "<" + text.get<std::string>() + ">");
  EXPECT_EQ(RenderAdapted(loop("<{{ a }}>"), request(text)), "<" + text.get<std::string>() + ">");
  EXPECT_EQ(RenderAdapted(loop("{{ a|tojson }}"), request("")), "{}");
  // What a model wrote and is no object stays as it is.
  EXPECT_EQ(RenderAdapted(loop("{{ a|tojson }}"), request("{oops")), R"("{oops")");
}

TEST(ChatTemplate, CallsTheDeveloperSystemWhereTheTemplateKnowsNone) {
  const Json request = {{"messages", {{{"role", "developer"}, {"content", "c"}}}}};
  EXPECT_EQ(RenderAdapted("{{ messages[0].role }}", request), "system");
  EXPECT_EQ(RenderAdapted("{{ messages[0].role in ['developer'] }}", request), "True");
}

TEST(ChatTemplate, RefusesRequestsWithoutMessages) {
  for (const Json& request : {Json::array(), Json::object(), Json{{"messages", Json::array()}},
                              Json{{"messages", {1}}}, Json{{"messages", "x"}}}) {
    EXPECT_THAT(Render("x", request), testing::HasSubstr("error: "));
  }
}

TEST(ChatTemplate, GivesTheMessageOfRaiseExceptionVerbatim) {
  EXPECT_EQ(Render("\n\n{{ raise_exception('Roles must alternate!') }}", User("x")),
            "error: Roles must alternate!");
}

TEST(ChatTemplate, NamesTheLineOfAnError) {
  EXPECT_EQ(Render("a\n{{ x.y }}", User("x")), "error: chat template, line 2: 'x' is undefined");
  EXPECT_EQ(Render("a\n\n{{ 'b'|nosuch }}", User("x")),
            "load: chat template, line 3: there is no filter 'nosuch'");
}

}  // namespace
}  // namespace choir
