// Tokenizer and chat template of the checkpoints that carry text, against transformers.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/clock.h"
#include "router/text/chat_template.h"
#include "router/text/tokenizer.h"
#include "tests/golden/golden.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<int32_t>;

class GoldenText : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string dir = golden::Dir(GetParam());
    std::ifstream file(dir + "/expected.json");
    expected_ = Json::parse(file)["text"];
    auto tokenizer = Tokenizer::Load(dir);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(tokenizer).value();
    auto chat_template = ChatTemplate::Load(dir);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    template_ = std::move(chat_template).value();
  }

  std::string Render(const Json& messages, bool add_generation_prompt) const {
    const Json request = {{"messages", messages}, {"add_generation_prompt", add_generation_prompt}};
    const auto text = template_->Render(request, Clock::Real(), {});
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? *text : "";
  }

  Json expected_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
};

TEST_P(GoldenText, TokenizesAndDecodes) {
  for (const Json& c : expected_["tokenize"]) {
    const std::string text = c["text"];
    EXPECT_EQ(*tokenizer_->Encode(text, true), c["ids"].get<Ids>()) << text;
    EXPECT_EQ(*tokenizer_->Encode(text, false), c["ids_plain"].get<Ids>()) << text;
    EXPECT_EQ(*tokenizer_->Decode(c["ids"], false), c["decoded"].get<std::string>()) << text;
  }
}

TEST_P(GoldenText, RendersTheChatTemplate) {
  for (const Json& c : expected_["templates"]) {
    EXPECT_EQ(Render(c["messages"], c["add_generation_prompt"]), c["text"].get<std::string>());
  }
}

TEST_P(GoldenText, AChatBecomesItsTokensAndTheAnswerItsText) {
  const Json& chat = expected_["chat"];
  EXPECT_EQ(*tokenizer_->Encode(Render(chat["messages"], true), false),
            chat["prompt_ids"].get<Ids>());
  EXPECT_EQ(*tokenizer_->Decode(chat["output_ids"], true), chat["text"].get<std::string>());
}

TEST_P(GoldenText, StreamsTheTextThatDecodingGives) {
  StreamingDetokenizer stream(tokenizer_.get(), true);
  std::string text;
  for (const int32_t id : expected_["chat"]["output_ids"].get<Ids>()) text += stream.Push(id);
  EXPECT_EQ(text + stream.Flush(), expected_["chat"]["text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenText, testing::Values("tiny_llama", "tiny_glm4_moe"));

}  // namespace
}  // namespace choir
