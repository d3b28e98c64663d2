#include "router/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "router/text/unicode.h"
#include "router/text/unicode_versions.h"

namespace choir::text {
namespace {

constexpr int kDepthMax = 16;
constexpr size_t kStepsMax = 64;
constexpr size_t kReplacedBytesMax = 64 << 20;  // steps that each lengthen a text end there

utf8proc_propval_t CombiningClass(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

// Sorts the marks behind each starter by their class. utf8proc's own string functions do it in
// quadratic time, which a client could use against us.
void SortMarks(std::vector<utf8proc_int32_t>* chars) {
  for (auto it = chars->begin(); it != chars->end();) {
    if (CombiningClass(*it) == 0) {
      ++it;
      continue;
    }
    auto end = it;
    while (end != chars->end() && CombiningClass(*end) != 0) ++end;
    std::stable_sort(it, end, [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    it = end;
  }
}

// A normal form of `chars`, which are decomposed, appended.
void AppendOrdered(bool compose, std::vector<utf8proc_int32_t>* chars, std::string* out) {
  SortMarks(chars);
  if (compose) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    const auto length = utf8proc_normalize_utf32(
        chars->data(), static_cast<utf8proc_ssize_t>(chars->size()), options);
    if (length >= 0) chars->resize(static_cast<size_t>(length));
  }
  for (const utf8proc_int32_t c : *chars) unicode::Append(static_cast<char32_t>(c), out);
  chars->clear();
}

// Unicode normal forms. Characters that the package's normalizers do not know stand as they are,
// and nothing is sorted or composed over them.
void NormalForm(bool compatible, bool compose, std::string* text) {
  if (unicode::IsAscii(*text)) return;
  const auto decompose = static_cast<utf8proc_option_t>(
      UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : static_cast<utf8proc_option_t>(0)));
  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text->size());
  std::string out;
  out.reserve(text->size());
  size_t pos = 0;
  while (pos < text->size()) {
    const char32_t c = unicode::Next(*text, &pos);
    if (unicode::IsUnknownToNormalizers(c)) {
      AppendOrdered(compose, &chars, &out);
      unicode::Append(c, &out);
      continue;
    }
    utf8proc_int32_t parts[32];
    int last_boundclass = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32,
                                               decompose, &last_boundclass);
    if (count <= 0 || count > 32) {
      chars.push_back(static_cast<utf8proc_int32_t>(c));
    } else {
      chars.insert(chars.end(), parts, parts + count);
    }
  }
  AppendOrdered(compose, &chars, &out);
  *text = std::move(out);
}

void Lowercase(std::string* text) {
  std::string out;
  size_t pos = 0;
  while (pos < text->size()) {
    const char32_t c = unicode::Next(*text, &pos);
    if (c == 0x130) {  // the one lower case of two characters: i and a dot above
      out += "i\xCC\x87";
    } else {
      unicode::Append(static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c))), &out);
    }
  }
  *text = std::move(out);
}

void Strip(bool left, bool right, std::string* text, bool* dropped_front) {
  size_t begin = 0;
  size_t end = text->size();
  for (size_t pos = 0; left && pos < end && unicode::IsWhitespace(unicode::Next(*text, &pos));) {
    begin = pos;
  }
  while (right && end > begin) {
    const size_t start = unicode::Previous(*text, end);
    size_t pos = start;
    if (!unicode::IsWhitespace(unicode::Next(*text, &pos))) break;
    end = start;
  }
  if (begin > 0) *dropped_front = true;
  *text = text->substr(begin, end - begin);
}

void StripAccents(std::string* text) {
  std::string out;
  size_t pos = 0;
  while (pos < text->size()) {
    const size_t from = pos;
    if (!unicode::IsMark(unicode::Next(*text, &pos))) out.append(*text, from, pos - from);
  }
  *text = std::move(out);
}

}  // namespace

bool ReplaceAll(const Pattern& pattern, const std::string& content, std::string* text,
                RegexScratch* scratch) {
  MatchIterator matches(pattern, *text, scratch);
  MatchRange match;
  std::string out;
  size_t done = 0;
  bool any = false;
  while (matches.Next(&match)) {
    any = true;
    out.append(*text, done, match.begin - done);
    out += content;
    done = match.end;
    if (out.size() > kReplacedBytesMax) return false;
  }
  if (matches.budget_spent()) return false;
  if (!any) return true;
  out.append(*text, done);
  *text = std::move(out);
  return true;
}

StatusOr<Pattern> ReadPattern(const JsonField& field) {
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  if (field["String"].present()) {
    CHOIR_ASSIGN_OR_RETURN(std::string text, field["String"].String());
    return Pattern::FromLiteral(std::move(text));
  }
  if (!field["Regex"].present()) return field.Error("must have a member String or Regex");
  CHOIR_ASSIGN_OR_RETURN(const std::string text, field["Regex"].String());
  auto pattern = Pattern::FromRegex(text);
  if (!pattern.ok()) return field["Regex"].Error(MessageOf(pattern.status()));
  return pattern;
}

StatusOr<Normalizer> Normalizer::Read(const JsonField& field) {
  Normalizer normalizer;
  if (field.present()) CHOIR_RETURN_IF_ERROR(normalizer.ReadInto(field, 0));
  return normalizer;
}

Status Normalizer::ReadInto(const JsonField& field, int depth) {
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  if (depth > kDepthMax) return field.Error("nested too deeply");
  CHOIR_ASSIGN_OR_RETURN(const std::string type, field["type"].String());
  if (steps_.size() >= kStepsMax) return field.Error("more than 64 normalizers");
  if (type != "Sequence") return ReadOne(field, type);
  const JsonField parts = field["normalizers"];
  CHOIR_RETURN_IF_ERROR(parts.RequireArray());
  for (size_t i = 0; i < parts.size(); ++i) CHOIR_RETURN_IF_ERROR(ReadInto(parts.At(i), depth + 1));
  return {};
}

Status Normalizer::ReadOne(const JsonField& field, const std::string& type) {
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const bool compatible = type[2] == 'K';
    const bool compose = type.back() == 'C';
    steps_.push_back([=](const Call& c) { return NormalForm(compatible, compose, c.text), true; });
  } else if (type == "Prepend") {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, field["prepend"].String());
    steps_.push_back([text](const Call& c) {
      if (!c.text->empty()) c.text->insert(0, text);
      return true;
    });
  } else if (type == "Replace") {
    CHOIR_ASSIGN_OR_RETURN(const Pattern pattern, ReadPattern(field["pattern"]));
    CHOIR_ASSIGN_OR_RETURN(const std::string content, field["content"].String());
    steps_.push_back(
        [=](const Call& c) { return ReplaceAll(pattern, content, c.text, c.scratch); });
  } else if (type == "Lowercase") {
    steps_.push_back([](const Call& c) { return Lowercase(c.text), true; });
  } else if (type == "Strip") {
    CHOIR_ASSIGN_OR_RETURN(const bool left, field["strip_left"].Bool({}));
    CHOIR_ASSIGN_OR_RETURN(const bool right, field["strip_right"].Bool({}));
    steps_.push_back(
        [=](const Call& c) { return Strip(left, right, c.text, c.dropped_front), true; });
  } else if (type == "StripAccents") {
    steps_.push_back([](const Call& c) { return StripAccents(c.text), true; });
  } else if (type == "ByteLevel") {
    steps_.push_back([](const Call& c) {
      std::string mapped;
      unicode::AppendByteChars(*c.text, &mapped);
      *c.text = std::move(mapped);
      return true;
    });
  } else {
    return field["type"].Error(
        "this normalizer is not supported (Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, "
        "Lowercase, Strip, StripAccents and ByteLevel are)");
  }
  return {};
}

bool Normalizer::Apply(std::string* text, bool* dropped_front, RegexScratch* scratch) const {
  for (const Step& step : steps_) {
    if (!step({text, dropped_front, scratch})) return false;
  }
  return true;
}

}  // namespace choir::text
