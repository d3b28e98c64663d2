#include "router/text/reasoning.h"

#include <gtest/gtest.h>

#include <random>
#include <regex>

namespace choir {
namespace {

using Piece = ReasoningSplitter::Piece;

Piece Split(const std::string& text, bool starts_inside) {
  ReasoningSplitter splitter({}, starts_inside);
  Piece all = splitter.Push(text);
  const Piece rest = splitter.Flush();
  return {all.reasoning + rest.reasoning, all.content + rest.content};
}

// The same on a whole text, another way.
Piece Model(std::string text, bool inside) {
  std::smatch m;
  bool opened = inside;
  if (std::regex_search(text, m, std::regex("^[ \\t\\r\\n]*<think>"))) {
    text = m.suffix();
    opened = true;
  }
  if (!opened) return {"", text};
  const auto trim = [](const std::string& s) {
    return s.substr(std::min(s.find_first_not_of("\r\n"), s.size()));
  };
  const size_t end = text.find("</think>");
  if (end == std::string::npos) return {trim(text), ""};
  return {trim(text.substr(0, end)), trim(text.substr(end + 8))};
}

TEST(ReasoningSplitter, SeparatesReasoningFromContent) {
  const Piece piece = Split("<think>\nHm.\n</think>\n\nYes.", false);
  EXPECT_EQ(piece.reasoning, "Hm.\n");
  EXPECT_EQ(piece.content, "Yes.");
}

TEST(ReasoningSplitter, StartsInsideWhenTheTemplateOpenedTheTag) {
  const Piece piece = Split("\nHm.</think>Yes.", true);
  EXPECT_EQ(piece.reasoning, "Hm.");
  EXPECT_EQ(piece.content, "Yes.");
}

TEST(ReasoningSplitter, DropsAnOpeningTagThatTheModelRepeats) {
  const Piece piece = Split("<think>\nHm.</think>Yes.", true);
  EXPECT_EQ(piece.reasoning, "Hm.");
  EXPECT_EQ(piece.content, "Yes.");
}

TEST(ReasoningSplitter, LeavesATagInTheMiddleOfContentAlone) {
  const Piece piece = Split("Write <think> and </think>.", false);
  EXPECT_EQ(piece.reasoning, "");
  EXPECT_EQ(piece.content, "Write <think> and </think>.");
}

TEST(ReasoningSplitter, TakesAllAsContentAfterTheClosingTag) {
  const Piece piece = Split("<think>a</think>b<think>c</think>", false);
  EXPECT_EQ(piece.reasoning, "a");
  EXPECT_EQ(piece.content, "b<think>c</think>");
}

TEST(ReasoningSplitter, KeepsLeadingWhitespaceOfPlainContent) {
  EXPECT_EQ(Split("\n  code", false).content, "\n  code");
  EXPECT_EQ(Split(" \n ", false).content, " \n ");
}

TEST(ReasoningSplitter, FlushesAnUnfinishedTagAsText) {
  EXPECT_EQ(Split("<thin", false).content, "<thin");
  EXPECT_EQ(Split("<think>a</thi", false).reasoning, "a</thi");
}

TEST(ReasoningSplitter, GivesReasoningBeforeTheClosingTagHasCome) {
  ReasoningSplitter splitter({}, false);
  EXPECT_EQ(splitter.Push("<think>abc").reasoning, "abc");
  EXPECT_TRUE(splitter.inside());
  EXPECT_EQ(splitter.Push("d</").reasoning, "d");
  EXPECT_EQ(splitter.Push("think>x").content, "x");
  EXPECT_FALSE(splitter.inside());
}

TEST(ReasoningSplitter, AgreesWithTheWholeTextForRandomCuts) {
  std::mt19937 random(11);
  const std::vector<std::string> parts = {"<think>", "</think>", "<thi", "nk>", "</",  "\n",
                                          " ",       "a",        "<",    "é",   "\r\n"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t i = random() % 8; i > 0; --i) text += parts[random() % parts.size()];
    const bool inside = random() % 2 == 0;
    const Piece expected = Model(text, inside);
    ReasoningSplitter splitter({}, inside);
    Piece got;
    const auto add = [&](const Piece& piece) {
      got.reasoning += piece.reasoning;
      got.content += piece.content;
    };
    for (size_t pos = 0; pos < text.size();) {
      const size_t length = 1 + random() % 6;
      add(splitter.Push(std::string_view(text).substr(pos, length)));
      pos += length;
    }
    add(splitter.Flush());
    ASSERT_EQ(got.reasoning, expected.reasoning) << inside << ' ' << text;
    ASSERT_EQ(got.content, expected.content) << inside << ' ' << text;
  }
}

}  // namespace
}  // namespace choir
