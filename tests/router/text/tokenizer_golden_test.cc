// Against what the `tokenizers` package does: tests/golden/make_tokenizer_goldens.py made the
// files.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "router/text/hf_tokenizer.h"
#include "router/text/unicode.h"

namespace choir::text {
namespace {

using Json = nlohmann::json;

const std::string kGolden = std::string(CHOIR_SOURCE_DIR) + "/tests/golden/tokenizer/";

std::vector<Json> ReadLines(const std::string& name) {
  std::ifstream file(kGolden + name);
  std::vector<Json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(Json::parse(line));
  EXPECT_FALSE(rows.empty()) << name;
  return rows;
}

class Family : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::Load(kGolden + GetParam());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(Family, EncodesAndDecodesAsThePackage) {
  for (const Json& row : ReadLines(std::string(GetParam()) + "/cases.jsonl")) {
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer_->Encode(text, true), ids) << row["text"];
    EXPECT_EQ(*tokenizer_->Encode(text, false), row["plain"].get<std::vector<int32_t>>())
        << row["text"];
    EXPECT_EQ(*tokenizer_->Decode(ids, false), row["decoded"].get<std::string>()) << row["text"];
    EXPECT_EQ(*tokenizer_->Decode(ids, true), row["skipped"].get<std::string>()) << row["text"];
  }
}

TEST_P(Family, StreamsTheSameTextInWholeCharactersForRandomIds) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (size_t i = random() % 30; i > 0; --i) ids.push_back(random() % tokenizer_->vocab_size());
    const bool skip = round % 2 == 0;
    StreamingDetokenizer stream(tokenizer_.get(), skip);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = stream.Push(id);
      ASSERT_TRUE(unicode::IsValid(piece));
      text += piece;
    }
    text += stream.Flush();
    ASSERT_EQ(text, *tokenizer_->Decode(ids, skip));
  }
}

TEST_P(Family, JoinsTokenBytesToTheText) {
  // This one has no token for most characters.
  const bool poor = std::string(GetParam()) == "metaspace";
  const std::string text = poor ? "ello wörld," : "Hello wörld, 中文!";
  std::string bytes;
  const auto ids = tokenizer_->Encode(text, false);
  for (const int32_t id : *ids) bytes += tokenizer_->TokenBytes(id);
  // The SentencePiece kind puts a space in front.
  EXPECT_EQ(bytes.substr(bytes.starts_with(' ') ? 1 : 0), text);
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Family,
                         testing::Values("deepseek_v3", "llama3", "o200k", "qwen", "smollm",
                                         "mixtral", "metaspace"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TokenizerGolden, DoesWhatThePackageDoesForEveryComponent) {
  for (const Json& row : ReadLines("components.jsonl")) {
    const auto made = HfTokenizer::FromJson(row["tokenizer"], Json());
    ASSERT_TRUE(made.ok()) << row["name"] << made.status();
    for (const Json& one : row["cases"]) {
      const auto ids = one[1].get<std::vector<int32_t>>();
      EXPECT_EQ(*(*made)->Encode(one[0].get<std::string>(), true), ids) << row["name"] << one[0];
      EXPECT_EQ(*(*made)->Decode(ids, false), one[2].get<std::string>()) << row["name"] << one[0];
    }
  }
}

class Words : public PreTokenizer::Sink {
 public:
  bool Take(const PreTokenizer::Piece& piece) override {
    words.emplace_back(piece.text);
    return true;
  }
  std::vector<std::string> words;
};

TEST(TokenizerGolden, CutsTextIntoTheSameWords) {
  for (const Json& row : ReadLines("words.jsonl")) {
    const auto pre = PreTokenizer::Read(JsonField(&row["pre_tokenizer"], "pre_tokenizer"));
    ASSERT_TRUE(pre.ok()) << row["name"] << pre.status();
    PreTokenizerScratch scratch;
    for (const Json& one : row["cases"]) {
      const auto text = one[0].get<std::string>();
      Words got;
      if (!text.empty()) {
        scratch.regex.StartText(text.size());
        ASSERT_TRUE(pre->Run({text, true}, &scratch, &got)) << row["name"] << one[0];
      }
      EXPECT_EQ(got.words, one[1].get<std::vector<std::string>>())
          << row["name"] << row["pre_tokenizer"] << one[0];
    }
  }
}

}  // namespace
}  // namespace choir::text
