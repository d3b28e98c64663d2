// Damaged and hostile model directories: one clear message, no crash, bounded work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "router/text/hf_tokenizer.h"
#include "tests/support/temp_dir.h"

namespace choir::text {
namespace {

using Json = nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

Json Small() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "vocab": {"a": 0, "b": 1, "ab": 2, "aa": 3, "aaaa": 4},
              "merges": ["a b", ["a", "a"], ["aa", "aa"]]}
  })");
}

std::string ErrorOf(const Json& tokenizer, const Json& config = Json()) {
  const auto made = HfTokenizer::FromJson(tokenizer, config);
  if (made.ok()) return "no error";
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  return MessageOf(made.status());
}

// The message after `value` was put at `pointer`.
std::string ErrorWith(const char* pointer, Json value) {
  Json tokenizer = Small();
  tokenizer[Json::json_pointer(pointer)] = std::move(value);
  return ErrorOf(tokenizer);
}

std::unique_ptr<HfTokenizer> Make(const Json& tokenizer, const Json& config = Json()) {
  auto made = HfTokenizer::FromJson(tokenizer, config);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(TokenizerLoad, ReadsBothFormsOfMerges) {
  EXPECT_EQ(*Make(Small())->Encode("aabaaaa<s>", false), (std::vector<int32_t>{0, 2, 4, 5}));
}

TEST(TokenizerLoad, NamesTheFieldAndTheValueOfAWrongType) {
  EXPECT_EQ(ErrorWith("/model/vocab", 7), "tokenizer.json: model.vocab: must be an object; got 7");
  EXPECT_THAT(ErrorWith("/model/merges", Json()), HasSubstr("model.merges: must be a list"));
  EXPECT_THAT(ErrorWith("/model/merges/1", 3), HasSubstr("model.merges[1]: must be a list; got 3"));
  EXPECT_THAT(ErrorWith("/model/fuse_unk", "yes"), HasSubstr("model.fuse_unk: must be true or"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/special", 1), HasSubstr("added_tokens[0].special"));
  EXPECT_THAT(ErrorWith("/added_tokens", "x"),
              HasSubstr("added_tokens: must be a list; got \"x\""));
  EXPECT_THAT(ErrorWith("/version", "2.0"), HasSubstr("version: only version 1.0"));
  EXPECT_THAT(ErrorWith("/decoder", Json::array()), HasSubstr("decoder: must be an object"));
  EXPECT_THAT(ErrorOf(Json::array()), HasSubstr("must be an object"));
  EXPECT_THAT(ErrorOf(Json::object()), HasSubstr("model: must be an object"));
}

TEST(TokenizerLoad, RefusesPartsItDoesNotKnowByName) {
  EXPECT_THAT(ErrorWith("/model/type", "Unigram"), HasSubstr("only BPE models"));
  EXPECT_THAT(ErrorWith("/model/dropout", 0.1), HasSubstr("model.dropout"));
  const Json odd = {{"type", "Odd"}};
  EXPECT_THAT(ErrorWith("/normalizer", odd), HasSubstr("normalizer.type: this normalizer is not"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer", odd),
              HasSubstr("pre_tokenizer.type: this pre-tokenizer"));
  EXPECT_THAT(ErrorWith("/post_processor", odd), HasSubstr("post_processor.type: this post-proc"));
  EXPECT_THAT(ErrorWith("/decoder", odd), HasSubstr("decoder.type: this decoder is not supported"));
  EXPECT_THAT(
      ErrorWith("/decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, odd}}}),
      HasSubstr("decoder.decoders[1].type: this decoder is not supported"));
}

TEST(TokenizerLoad, RefusesIdsThatCannotBe) {
  EXPECT_THAT(ErrorWith("/model/vocab/a", -1), HasSubstr("vocab['a']: must be an integer in 0.."));
  EXPECT_THAT(ErrorWith("/model/vocab/a", 4000000000u), HasSubstr("got 4000000000"));
  EXPECT_THAT(ErrorWith("/model/vocab/a", 18446744073709551615u), HasSubstr("vocab['a']"));
  EXPECT_THAT(ErrorWith("/model/vocab/a", 1.5), HasSubstr("vocab['a']"));
  EXPECT_THAT(ErrorWith("/model/vocab/a", 1), HasSubstr("id 1 stands for both 'a' and 'b'"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/id", 1), HasSubstr("takes the id of 'b' in model.vocab"));
  EXPECT_THAT(ErrorWith("/model/vocab/<s>", 7), HasSubstr("'<s>' has id 7 in model.vocab"));
  Json twice = Small();
  twice["added_tokens"].push_back(twice["added_tokens"][0]);
  EXPECT_THAT(ErrorOf(twice), HasSubstr("added_tokens[1]: '<s>' or its id 5 is there twice"));
}

TEST(TokenizerLoad, LetsIdsHaveGaps) {
  Json gap = Small();
  gap["added_tokens"][0]["id"] = 100;
  const auto tokenizer = Make(gap);
  EXPECT_EQ(tokenizer->vocab_size(), 101);
  EXPECT_EQ(tokenizer->TokenBytes(50), "");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(2147483647), "");
  EXPECT_FALSE(tokenizer->Decode({50}, false).ok());
  EXPECT_THAT(MessageOf(tokenizer->Decode({0, 101}, false).status()),
              HasSubstr("token id 101 at position 1 is not in the vocabulary (0..100)"));
  StreamingDetokenizer stream(tokenizer.get(), false);
  EXPECT_EQ(stream.Push(50), "");
  EXPECT_EQ(stream.Push(100), "<s>");
}

TEST(TokenizerLoad, RefusesMergesOfUnknownTokens) {
  EXPECT_THAT(ErrorWith("/model/merges/0", "a z"),
              HasSubstr("merges[0] ('a' + 'z'): 'z' is not in"));
  EXPECT_THAT(ErrorWith("/model/merges/0", "b b"), HasSubstr("'bb' is not in vocab"));
  EXPECT_THAT(ErrorWith("/model/merges/0", "ab"), HasSubstr("two tokens with one space"));
  EXPECT_THAT(ErrorWith("/model/merges/0", "a  b"), HasSubstr("two tokens with one space"));
  EXPECT_THAT(ErrorWith("/model/merges/1", {"a"}), HasSubstr("must have two tokens"));
  EXPECT_THAT(ErrorWith("/model/unk_token", "?"), HasSubstr("unk_token: '?' is not in vocab"));
}

TEST(TokenizerLoad, RefusesTemplatesThatNameNothing) {
  const auto piece = [](const char* kind, const char* id) {
    return Json{{kind, {{"id", id}, {"type_id", 0}}}};
  };
  Json post = {{"type", "TemplateProcessing"},
               {"single", {piece("SpecialToken", "<s>"), piece("Sequence", "A")}},
               {"special_tokens", {{"<s>", {{"ids", {5}}}}}}};
  Json good = Small();
  good["post_processor"] = post;
  EXPECT_EQ(*Make(good)->Encode("b", true), (std::vector<int32_t>{5, 1}));
  post["special_tokens"]["<s>"]["ids"] = {99};
  EXPECT_THAT(ErrorWith("/post_processor", post), HasSubstr("ids[0]: must be an integer in 0..5"));
  post["special_tokens"] = Json::object();
  EXPECT_THAT(ErrorWith("/post_processor", post), HasSubstr("special_tokens.<s>"));
  post["single"] = Json::array({piece("Sequence", "B")});  // {x} is x for Clang
  EXPECT_THAT(ErrorWith("/post_processor", post), HasSubstr("must be one single A"));
}

TEST(TokenizerLoad, BoundsNesting) {
  Json nested = {{"type", "Fuse"}};
  for (int i = 0; i < 100; ++i)
    nested = {{"type", "Sequence"}, {"decoders", Json::array({nested})}};
  EXPECT_THAT(ErrorWith("/decoder", nested), HasSubstr("nested too deeply"));
}

TEST(TokenizerLoad, SaysWhereAPatternIsWrong) {
  const auto split = [](const std::string& regex) {
    return Json{{"type", "Split"},
                {"pattern", {{"Regex", regex}}},
                {"behavior", "Isolated"},
                {"invert", false}};
  };
  for (const char* bad : {"(a", "a)", "[a", "*", "\\", "\\p{Nope}", "(?<=a+)b", "(?~a)", "[\\W]",
                          "\\xFF", "a{99999999}", "(?x)a b", "[z-a]"}) {
    const std::string message = ErrorWith("/pre_tokenizer", split(bad));
    EXPECT_THAT(message, HasSubstr("pre_tokenizer.pattern.Regex: regular expression: ")) << bad;
  }
  EXPECT_THAT(ErrorWith("/pre_tokenizer", split(std::string(100000, 'a'))),
              HasSubstr("the limit is"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer", split(std::string(5000, '('))), HasSubstr("too deeply"));
}

TEST(TokenizerLoad, GivesUpOnACatastrophicPattern) {
  Json tokenizer = Small();
  tokenizer["pre_tokenizer"] = {{"type", "Split"},
                                {"pattern", {{"Regex", "^(a|a)+$"}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  const auto made = Make(tokenizer);
  const auto ids = made->Encode(std::string(5000, 'a') + "b", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(ids.status()), HasSubstr("5001 bytes"));
  EXPECT_EQ(made->Encode("ab", false)->size(), 1u);  // the next text has a new budget
}

TEST(TokenizerLoad, EncodesLongTextWithoutABreakInBoundedTime) {
  const std::string golden = std::string(CHOIR_SOURCE_DIR) + "/tests/golden/tokenizer/";
  for (const char* family : {"deepseek_v3", "llama3", "o200k", "qwen", "smollm", "mixtral"}) {
    const auto tokenizer = Tokenizer::Load(golden + family);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const std::string unit : {"a", " ", "\n", "7", "A", ".", "\xE4\xB8\xAD", " \n",
                                   "\xCC\x81\xCC\xA3", "<|begin", "\xFF"}) {
      std::string text;
      while (text.size() < 200'000) text += unit;
      const auto ids = (*tokenizer)->Encode(text, false);
      ASSERT_TRUE(ids.ok()) << family << ids.status();
      EXPECT_TRUE((*tokenizer)->Decode(*ids, false).ok());
    }
  }
}

class TokenizerDir : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
  }
  std::string LoadError() {
    const auto loaded = Tokenizer::Load(dir_);
    return loaded.ok() ? "no error" : MessageOf(loaded.status());
  }
  const TempDir temp_;
  const std::string dir_ = temp_.path();
};

TEST_F(TokenizerDir, SaysThatTokenizerJsonIsMissing) {
  EXPECT_THAT(LoadError(), StartsWith(dir_ + "/tokenizer.json: file: is missing; complete "));
  std::filesystem::create_directories(dir_ + "/tokenizer.json");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json: "));
}

TEST_F(TokenizerDir, NamesTheFormThatIsThereInstead) {
  Write("tiktoken.model", "");
  EXPECT_THAT(LoadError(), StartsWith(dir_ + ": has tiktoken.model, but no tokenizer.json"));
  EXPECT_THAT(LoadError(), HasSubstr("save_pretrained"));
}

TEST_F(TokenizerDir, SaysThatTheDirectoryIsMissing) {
  EXPECT_EQ(MessageOf(Tokenizer::Load(dir_ + "/gone").status()),
            "there is no directory " + dir_ + "/gone; give the directory of a model");
}

TEST_F(TokenizerDir, ErrorsNameDirectoryFieldAndRemedyButNoLibrary) {
  Write("tokenizer.json", "{\"a\":\n nul}");
  EXPECT_THAT(LoadError(),
              AllOf(StartsWith(dir_ + "/tokenizer.json: JSON: malformed at line 2, column 5; "),
                    HasSubstr("fetch it again"), Not(HasSubstr("exception"))));
  Write("tokenizer.json", "1e999");
  EXPECT_THAT(LoadError(), Not(HasSubstr("exception")));
  Json wrong = Small();
  wrong["model"]["vocab"] = 7;
  Write("tokenizer.json", wrong.dump());
  EXPECT_THAT(LoadError(),
              StartsWith(dir_ + "/tokenizer.json: model.vocab: must be an object; got 7; take "));
}

TEST_F(TokenizerDir, SaysWhereATruncatedFileEnds) {
  const std::string text = Small().dump();
  for (const size_t size : {size_t{0}, size_t{1}, text.size() / 2, text.size() - 1}) {
    Write("tokenizer.json", text.substr(0, size));
    EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json: JSON: "));
  }
  Write("tokenizer.json", std::string(100000, '['));
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json: JSON: "));
  Write("tokenizer.json", "{\"a\": \"\xFF\"}");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json: JSON: "));
}

TEST_F(TokenizerDir, WorksWithoutATokenizerConfigButNotWithABrokenOne) {
  Write("tokenizer.json", Small().dump());
  EXPECT_EQ(LoadError(), "no error");
  Write("tokenizer_config.json", "{");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer_config.json: JSON: "));
  Write("tokenizer_config.json", R"({"bos_token": 5})");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer_config.json: bos_token: must be a string; got 5"));
}

TEST(TokenizerConfig, AddsBosAndEosWhereNoPostProcessorDoes) {
  const Json config = {{"bos_token", "<s>"},
                       {"eos_token", {{"content", "b"}}},
                       {"add_bos_token", true},
                       {"add_eos_token", true}};
  const auto tokenizer = Make(Small(), config);
  EXPECT_EQ(*tokenizer->Encode("a", true), (std::vector<int32_t>{5, 0, 1}));
  EXPECT_EQ(*tokenizer->Encode("a", false), (std::vector<int32_t>{0}));
  EXPECT_EQ(tokenizer->bos_id(), 5);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->eos_token(), "b");
  EXPECT_THAT(ErrorOf(Small(), {{"bos_token", "<no>"}, {"add_bos_token", true}}),
              HasSubstr("tokenizer_config.json: bos_token: add_bos_token needs a token"));
}

TEST(Tokenizer, ReadsIllFormedTextAsReplacementCharacters) {
  Json tokenizer = Small();
  tokenizer["model"]["vocab"]["\uFFFD"] = 6;
  EXPECT_EQ(*Make(tokenizer)->Encode("a\xFF\xE4\xB8z\xE4", false),
            (std::vector<int32_t>{0, 6, 6, 6}));
}

TEST(Tokenizer, EncodesTheSameOnManyThreadsAtOnce) {
  const auto loaded =
      choir::Tokenizer::Load(std::string(CHOIR_SOURCE_DIR) + "/tests/golden/tokenizer/qwen");
  ASSERT_TRUE(loaded.ok());
  const std::string text = "The choir sings <|begin|> for 10 weeks, caf\u00e9 \n\n end";
  const auto expected = *(*loaded)->Encode(text, true);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) wrong += *(*loaded)->Encode(text, true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, MergesLongWordsAsShortOnes) {
  // 64 symbols is where the way of merging changes.
  const auto tokenizer = Make(Small());
  for (size_t n = 1; n < 200; ++n) {
    std::vector<int32_t> expected(n / 4, 4);
    if (n % 4 >= 2) expected.push_back(3);
    if (n % 2 == 1) expected.push_back(0);
    EXPECT_EQ(*tokenizer->Encode(std::string(n, 'a'), false), expected) << n;
  }
}

}  // namespace
}  // namespace choir::text
