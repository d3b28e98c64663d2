// Every text that transformers renders from the golden templates, byte for byte; and an error where
// it has one, with raise_exception's message.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "router/text/chat_template.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

const std::string kDir = std::string(CHOIR_SOURCE_DIR) + "/tests/golden/template/";

// 2025-03-09 17:05:06, as in make_template_goldens.py.
class GoldenClock : public Clock {
 public:
  MonoTime Now() const override { return {}; }
  WallTime Wall() const override { return WallTime(std::chrono::seconds(1741539906)); }
};

std::string Read(const std::string& name) {
  std::ifstream in(kDir + name, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_TRUE(in.good()) << kDir + name;
  return text.str();
}

void Check(const std::string& text, const Json& tokens, const Json& request, const Json& expected) {
  StatusOr<std::string> rendered = InvalidArgument("not rendered");
  const auto parsed = ChatTemplate::FromText(text, tokens);
  if (parsed.ok()) {
    rendered = (*parsed)->Render(request, GoldenClock(), TemplateLimits());
  } else {
    rendered = parsed.status();
  }
  if (expected.contains("text")) {
    ASSERT_TRUE(rendered.ok()) << MessageOf(rendered.status());
    EXPECT_EQ(*rendered, expected["text"].get<std::string>());
    return;
  }
  ASSERT_FALSE(rendered.ok()) << *rendered;
  EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument);
  if (expected["raised"].get<bool>()) {
    EXPECT_EQ(MessageOf(rendered.status()), expected["error"].get<std::string>());
  }
}

class TemplateGolden : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "UTC", 1);
    tzset();
  }
  static void CheckFile(const std::string& name, size_t cases_min) {
    const Json golden = Json::parse(Read(name));
    ASSERT_GE(golden["cases"].size(), cases_min);
    for (const Json& golden_case : golden["cases"]) {
      const auto text = golden_case["template"].get<std::string>();
      SCOPED_TRACE(text);
      Check(text, golden["tokens"], golden["request"], golden_case);
    }
  }
};

TEST_F(TemplateGolden, EvaluatesExpressionsAsJinja) { CheckFile("expressions.json", 200); }

TEST_F(TemplateGolden, RunsStatementsAsJinja) { CheckFile("constructs.json", 100); }

TEST_F(TemplateGolden, RendersConversationsInTheStructureOfEveryFamily) {
  const Json golden = Json::parse(Read("conversations.json"));
  ASSERT_GE(golden["cases"].size(), 200u);
  std::map<std::string, std::string> texts;
  for (const Json& golden_case : golden["cases"]) {
    const auto name = golden_case["template"].get<std::string>();
    if (!texts.contains(name)) texts[name] = Read(name + ".jinja");
    const auto request = golden_case["request"].get<std::string>();
    SCOPED_TRACE(name + " on " + request);
    Check(texts[name], golden["tokens"], golden["requests"][request], golden_case);
  }
}

}  // namespace
}  // namespace choir
