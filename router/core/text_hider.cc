#include "router/core/text_hider.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "router/core/protocol_words.h"
#include "router/text/unicode.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

constexpr char32_t kFirstMark = 0xF0000;  // of private use; in UTF-8 they begin with F3
constexpr size_t kShownMax = 32;          // a template may leave out the first ones or the last

std::string MarkOf(size_t text) {
  std::string mark;
  unicode::Append(kFirstMark + static_cast<char32_t>(text), &mark);
  return mark;
}

template <typename See>
void ForEachMark(std::string_view prompt, See see) {
  for (size_t at = prompt.find('\xF3'); at != std::string_view::npos;
       at = prompt.find('\xF3', at)) {
    const size_t begin = at;
    const char32_t c = unicode::Next(prompt, &at);
    if (c >= kFirstMark) see(c - kFirstMark, begin);
  }
}

std::string HiddenString(std::string_view shown, size_t text) {
  const std::string mark = MarkOf(text);
  std::string out;
  size_t count = 0;
  for (size_t pos = 0; pos < shown.size() && count < kShownMax; ++count) {
    unicode::Next(shown, &pos);
    out += mark;
  }
  return out.empty() ? mark : out;
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

ordered_json OtherNumber(const ordered_json& number) {
  const std::string shown = number.dump();
  const size_t first = shown.find_first_of("0123456789");
  int digit = 1;
  while (first != std::string::npos &&
         (shown[first] == '0' + digit || shown.back() == '0' + digit)) {
    ++digit;
  }
  if (number.is_number_float()) return digit + digit / 10.0;
  return digit;
}

// Goes through the texts of a request, always in the same order.
class TextWalker {
 public:
  // Whether the text is hidden; `text` is null for a number.
  using Hides = std::function<bool(size_t number, const std::string* text)>;
  explicit TextWalker(Hides hides) : hides_(std::move(hides)) {}

  void Walk(ordered_json* request) {
    for (const char* field : {"messages", "tools"}) {
      if (const auto found = request->find(field); found != request->end()) WalkValue(&*found);
    }
    const auto variables = request->find("kwargs");
    if (variables == request->end()) return;
    for (auto& [name, value] : variables->items()) {
      if (name != "chat_template") WalkValue(&value);  // which of several templates
    }
  }

 private:
  void WalkValue(ordered_json* value) {
    if (value->is_string()) {
      auto* text = value->get_ptr<std::string*>();
      if (text->empty()) return;
      const size_t number = num_texts_++;
      if (hides_(number, text)) *text = HiddenString(*text, number);
    } else if (value->is_number()) {
      if (hides_(num_texts_++, nullptr)) *value = OtherNumber(*value);
    } else if (value->is_array()) {
      for (ordered_json& item : *value) WalkValue(&item);
    } else if (value->is_object()) {
      WalkObject(value);
    }
  }
  void WalkObject(ordered_json* object) {
    ordered_json out = ordered_json::object();
    for (auto& [key, item] : object->items()) {
      if (!IsProtocolWord(key, item)) WalkValue(&item);
      std::string shown = key;
      if (!IsProtocolKey(key)) {
        const size_t number = num_texts_++;
        if (hides_(number, &key)) shown = HiddenString(key, number);
      }
      out[shown] = std::move(item);
    }
    *object = std::move(out);
  }

  const Hides hides_;
  size_t num_texts_ = 0;
};

}  // namespace

std::vector<std::string> FindTexts(ordered_json request) {
  std::vector<std::string> texts;
  TextWalker([&texts](size_t, const std::string* text) {
    texts.push_back(text == nullptr ? "" : *text);
    return false;
  }).Walk(&request);
  return texts;
}

void HideTexts(const std::vector<bool>& hidden, ordered_json* request) {
  TextWalker([&hidden](size_t number, const std::string*) { return hidden[number]; }).Walk(request);
}

std::vector<bool> HiddenTextsIn(std::string_view prompt, size_t count) {
  std::vector<bool> seen(count);
  ForEachMark(prompt, [&seen](size_t text, size_t) {
    if (text < seen.size()) seen[text] = true;
  });
  return seen;
}

std::optional<std::vector<ShownText>> FindShown(std::string_view prompt, std::string_view hiding,
                                                const std::vector<std::string>& texts) {
  std::vector<ShownText> shown;
  size_t at = 0;  // in the prompt
  size_t copied = 0;
  bool same = true;
  const auto expect = [&](std::string_view text) {
    same = same && prompt.substr(at).starts_with(text);
    at += same ? text.size() : 0;
  };
  const auto expect_until = [&](size_t end) {
    if (same) expect(hiding.substr(copied, end - copied));
  };
  ForEachMark(hiding, [&](size_t text, size_t begin) {
    if (!same || begin < copied) return;  // of the same showing
    const std::string marks = text < texts.size() ? HiddenString(texts[text], text) : "";
    same = !marks.empty() && hiding.substr(begin).starts_with(marks);
    expect_until(begin);
    if (same) {
      const std::string_view whole = texts[text];
      const auto as_shown = prompt.substr(at).starts_with(whole) ? whole : Trimmed(whole);
      shown.push_back({text, at, at + as_shown.size()});
      expect(as_shown);
    }
    copied = begin + marks.size();
  });
  expect_until(hiding.size());
  if (!same || at != prompt.size()) return std::nullopt;
  return shown;
}

bool HasMark(std::string_view text) {
  bool has = false;
  ForEachMark(text, [&has](size_t, size_t) { has = true; });
  return has;
}

}  // namespace choir
