// Ordinary chats in the structure of every family of templates: words that match are of one text or
// the template's, and none is refused.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "router/core/joint_rules.h"
#include "router/text/chat_template.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

std::string Read(const std::string& name) {
  std::ifstream in(std::string(CHOIR_SOURCE_DIR) + "/tests/golden/template/" + name);
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_TRUE(in.good()) << name;
  return text.str();
}

TEST(JointRulesGoldenTest, WordsOfOrdinaryChatsAreExplained) {
  const auto rules = *ContentRules::Compile({{.name = "word", .pattern = R"(\b[a-z]{3,12}\b)"}});
  const auto golden = ordered_json::parse(Read("conversations.json"));
  std::map<std::string, std::unique_ptr<ChatTemplate>> templates;
  size_t looked_into = 0;
  for (const ordered_json& chat : golden["cases"]) {
    if (!chat.contains("text")) continue;
    const auto name = chat["template"].get<std::string>();
    auto& made = templates[name];
    if (made == nullptr) made = *ChatTemplate::FromText(Read(name + ".jinja"), golden["tokens"]);
    const ordered_json& request = golden["requests"][chat["request"].get<std::string>()];
    size_t renders = 0;
    const auto render = [&](const ordered_json& asked) {
      ++renders;
      return made->Render(asked, Clock::Real(), {});
    };
    const auto prompt = render(request);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(FindAcrossTexts(*rules, *prompt, {*prompt}, request, render), nullptr)
        << name << " on " << chat["request"] << "\n"
        << *prompt;
    looked_into += renders > 1;
  }
  EXPECT_GT(looked_into, 100u);
}

}  // namespace
}  // namespace choir
