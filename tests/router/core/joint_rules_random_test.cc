// Random templates that join texts, random messages: against who says each byte of the prompt.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "router/core/joint_rules.h"
#include "router/text/chat_template.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

constexpr const char* kPatterns[] = {"abab", "bba", "a b"};
constexpr int kTemplate = -1;

// A prompt, and for each byte the text it is of.
struct Owned {
  std::string text;
  std::vector<int> owners;
  void Add(const std::string& more, int owner) {
    text += more;
    owners.insert(owners.end(), more.size(), owner);
  }
};

enum Change { kPlain, kTrim, kLower, kQuoted, kNumChanges, kWithoutFirst = kNumChanges, kPart };

struct Piece {
  std::string literal;  // when there is no field
  std::string field;    // content, name
  int change = kPlain;
  bool if_b = false;  // the literal only where the content has a b
};

std::string Trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(' ') + 1 - begin);
}

std::string Lowered(std::string text) {
  for (char& c : text) c = c == 'A' ? 'a' : c;
  return text;
}

// What a template does beyond showing each text once, trimmed or the like.
struct Kind {
  std::string name;
  bool cuts = false;
  bool asks = false;   // what a text says; and shows texts twice
  bool apart = false;  // no text has a match, and the template has no letters of one
  bool exact() const { return !cuts && !asks; }
};

bool HasMatch(const std::string& text) {
  return std::any_of(std::begin(kPatterns), std::end(kPatterns),
                     [&](const char* pattern) { return text.find(pattern) != std::string::npos; });
}

class Case {
 public:
  Case(uint32_t seed, const Kind& kind) : random_(seed), kind_(kind) {
    for (size_t n = 1 + Below(4); n > 0; --n) pieces_.push_back(RandomPiece());
    for (size_t n = 1 + Below(7); n > 0; --n) {
      ordered_json message = {{"role", "user"}, {"content", RandomText("ab |A", 6)}};
      if (Below(3) == 0) message["name"] = RandomText("ab ", 3);
      messages_.push_back(std::move(message));
    }
  }

  std::string Source() const {
    std::string source = "{% for m in messages %}";
    for (const Piece& piece : pieces_) source += SourceOf(piece);
    return source + "{% endfor %}";
  }
  ordered_json Request() const { return {{"messages", messages_}}; }
  Owned Prompt() const {
    Owned prompt;
    int text = 0;
    for (const ordered_json& message : messages_) {
      for (const Piece& piece : pieces_) {
        const auto content = message["content"].get<std::string>();
        if (!piece.field.empty()) {
          const std::string value = message.value(piece.field, "");
          AddChanged(value, piece.change, text + (piece.field == "name" ? 1 : 0), &prompt);
        } else if (!piece.if_b || content.find('b') != std::string::npos) {
          prompt.Add(piece.literal, kTemplate);
        }
      }
      text += 2;
    }
    return prompt;
  }

 private:
  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  std::string RandomText(const std::string& alphabet, size_t size_max) {
    std::string text;
    do {
      text.clear();
      for (size_t n = Below(size_max + 1); n > 0; --n) text += alphabet[Below(alphabet.size())];
    } while ((kind_.apart && HasMatch(Lowered(text))) || (Trimmed(text).empty() && !text.empty()));
    return text;
  }
  int RandomChange() { return static_cast<int>(Below(kind_.cuts ? kPart + 1 : kNumChanges)); }
  Piece RandomPiece() {
    const std::string field = Below(3) == 0 ? "name" : "content";
    const bool is_new = fields_.insert(field).second;
    if (Below(2) == 0 && (is_new || kind_.asks)) return {.field = field, .change = RandomChange()};
    return {.literal = RandomText(kind_.apart ? "c-" : "ab ", 2),
            .if_b = kind_.asks && Below(3) == 0};
  }
  static std::string SourceOf(const Piece& piece) {
    if (piece.field.empty()) {
      const std::string shown = "{{ '" + piece.literal + "' }}";
      return piece.if_b ? "{% if 'b' in m.content %}" + shown + "{% endif %}" : shown;
    }
    static constexpr const char* kChanges[] = {
        "{{{{ {} }}}}",         "{{{{ {} | trim }}}}",
        "{{{{ {} | lower }}}}", "{{{{ {} | tojson }}}}",
        "{{{{ {}[1:] }}}}",     "{{% if '|' in {0} %}}{{{{ {0}.split('|')[1] }}}}{{% endif %}}"};
    return fmt::format(fmt::runtime(kChanges[piece.change]), "(m." + piece.field + " or '')");
  }
  static void AddChanged(std::string value, int change, int text, Owned* prompt) {
    if (change == kTrim) value = Trimmed(value);
    if (change == kLower) value = Lowered(value);
    if (change == kWithoutFirst) value = value.substr(value.empty() ? 0 : 1);
    if (change == kPart) {
      const size_t bar = value.find('|');
      value = bar == std::string::npos ? "" : value.substr(bar + 1);
      value = value.substr(0, value.find('|'));
    }
    if (change == kQuoted) prompt->Add("\"", kTemplate);
    prompt->Add(value, text);
    if (change == kQuoted) prompt->Add("\"", kTemplate);
  }

  std::mt19937 random_;
  const Kind& kind_;
  std::set<std::string> fields_;
  std::vector<Piece> pieces_;
  ordered_json messages_ = ordered_json::array();
};

bool IsJoint(const Owned& prompt) {
  for (const std::string pattern : kPatterns) {
    for (size_t at = prompt.text.find(pattern); at != std::string::npos;
         at = prompt.text.find(pattern, at + 1)) {
      std::set<int> owners(prompt.owners.begin() + static_cast<ptrdiff_t>(at),
                           prompt.owners.begin() + static_cast<ptrdiff_t>(at + pattern.size()));
      owners.erase(kTemplate);
      if (owners.size() > 1) return true;
    }
  }
  return false;
}

class JointRulesRandomTest : public testing::TestWithParam<Kind> {};

TEST_P(JointRulesRandomTest, FindsWhatSeveralTextsSay) {
  std::vector<ContentRule> rules;
  for (const char* pattern : kPatterns) {
    rules.push_back({.name = fmt::format("rule{}", rules.size()), .pattern = pattern});
  }
  const auto compiled = *ContentRules::Compile(rules);
  const Kind& kind = GetParam();
  size_t joint = 0, explained = 0, too_careful = 0;
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    const Case random(seed, kind);
    const auto made = ChatTemplate::FromText(random.Source(), ordered_json::object());
    ASSERT_TRUE(made.ok()) << made.status();
    const auto render = [&](const ordered_json& asked) {
      return (*made)->Render(asked, Clock::Real(), {});
    };
    const Owned prompt = random.Prompt();
    const ordered_json request = random.Request();
    ASSERT_EQ(*render(request), prompt.text) << random.Source() << request;
    if (prompt.text.empty()) continue;
    const bool found =
        FindAcrossTexts(*compiled, prompt.text, {prompt.text}, request, render) != nullptr;
    const bool expected = IsJoint(prompt);
    // What cannot be told counts: only then more is found.
    ASSERT_TRUE(kind.exact() ? found == expected : found || !expected) << "seed " << seed << "\n"
                                                                       << random.Source() << "\n"
                                                                       << request << "\n"
                                                                       << prompt.text;
    joint += expected;
    too_careful += found && !expected;
    explained += !found && !compiled->Scan(prompt.text).empty();
  }
  EXPECT_GT(joint, 80u);
  EXPECT_TRUE(kind.apart || explained > 300);
  EXPECT_LT(too_careful, 100u);
}

INSTANTIATE_TEST_SUITE_P(
    Templates, JointRulesRandomTest,
    testing::Values(Kind{"Plain"}, Kind{.name = "Cuts", .cuts = true},
                    Kind{.name = "Asks", .asks = true},
                    Kind{.name = "All", .cuts = true, .asks = true, .apart = true}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace choir
