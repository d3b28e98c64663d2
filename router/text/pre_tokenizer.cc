#include "router/text/pre_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "router/text/normalizer.h"
#include "router/text/unicode.h"

namespace choir::text {
namespace {

using Piece = PreTokenizer::Piece;
using Sink = PreTokenizer::Sink;

constexpr int kDepthMax = 16;
constexpr size_t kStepsMax = 64;

// GPT-2's expression, which ByteLevel brings along.
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

StatusOr<Behavior> ReadBehavior(const JsonField& field, std::optional<Behavior> fallback) {
  if (!field.present() && fallback) return *fallback;
  CHOIR_ASSIGN_OR_RETURN(const std::string name, field.String());
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return field.Error("must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

// Cuts a piece at the matches of a pattern. Gets match and gap ranges in order and joins them.
class Cutter {
 public:
  Cutter(const Piece& piece, Behavior behavior, Sink* next)
      : piece_(piece), behavior_(behavior), next_(next) {}

  bool Take(MatchRange range, bool is_match) {
    bool join = false;  // with what is held
    switch (behavior_) {
      case Behavior::kRemoved:
        return is_match || Emit(range);
      case Behavior::kIsolated:
        return Emit(range);
      case Behavior::kContiguous:
        join = is_match == last_match_;
        break;
      case Behavior::kMergedWithPrevious:
        join = is_match && !last_match_;
        break;
      case Behavior::kMergedWithNext:
        join = !is_match && last_match_;
        break;
    }
    last_match_ = is_match;
    if (held_ && join) {
      held_->end = range.end;
      return true;
    }
    const std::optional<MatchRange> ready = std::exchange(held_, range);
    return !ready || Emit(*ready);
  }

  bool Finish() { return !held_ || Emit(*held_); }

 private:
  bool Emit(MatchRange range) {
    if (range.begin == range.end) return true;
    return next_->Take({piece_.text.substr(range.begin, range.end - range.begin),
                        piece_.at_start && range.begin == 0});
  }

  const Piece& piece_;
  Behavior behavior_;
  Sink* next_;
  std::optional<MatchRange> held_;
  bool last_match_ = false;
};

bool Cut(const Piece& piece, const Pattern& pattern, Behavior behavior, bool invert,
         RegexScratch* regex, Sink* next) {
  Cutter cutter(piece, behavior, next);
  MatchIterator matches(pattern, piece.text, regex);
  MatchRange match;
  size_t done = 0;
  while (matches.Next(&match)) {
    if (done != match.begin && !cutter.Take({done, match.begin}, invert)) return false;
    if (!cutter.Take(match, !invert)) return false;
    done = match.end;
  }
  if (matches.budget_spent()) return false;
  if (done != piece.text.size() && !cutter.Take({done, piece.text.size()}, invert)) return false;
  return cutter.Finish();
}

class SplitStep : public PreTokenizer::Step {
 public:
  SplitStep(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  bool Run(const Piece& piece, RegexScratch* regex, std::string*, Sink* next) const override {
    return Cut(piece, pattern_, behavior_, invert_, regex, next);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

// A space in front (unless there is one).
class PrefixSpaceStep : public PreTokenizer::Step {
 public:
  bool Run(const Piece& piece, RegexScratch*, std::string* buffer, Sink* next) const override {
    if (piece.text.front() == ' ') return next->Take(piece);
    buffer->assign(1, ' ').append(piece.text);
    return next->Take({*buffer, piece.at_start});
  }
};

class ByteCharsStep : public PreTokenizer::Step {
 public:
  bool Run(const Piece& piece, RegexScratch*, std::string* buffer, Sink* next) const override {
    buffer->clear();
    unicode::AppendByteChars(piece.text, buffer);
    return next->Take({*buffer, piece.at_start});
  }
};

enum class Prepend { kAlways, kFirst, kNever };

class MetaspaceStep : public PreTokenizer::Step {
 public:
  MetaspaceStep(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)),
        pattern_(Pattern::FromLiteral(replacement_)),
        prepend_(prepend),
        split_(split) {}

  bool Run(const Piece& piece, RegexScratch* regex, std::string* buffer,
           Sink* next) const override {
    buffer->clear();
    const bool has = piece.text.front() == ' ' || piece.text.starts_with(replacement_);
    const bool wanted =
        prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
    if (wanted && !has) *buffer += replacement_;
    for (const char c : piece.text) {
      if (c == ' ') {
        *buffer += replacement_;
      } else {
        buffer->push_back(c);
      }
    }
    const Piece marked{*buffer, piece.at_start};
    if (!split_) return next->Take(marked);
    return Cut(marked, pattern_, Behavior::kMergedWithNext, false, regex, next);
  }

 private:
  std::string replacement_;
  Pattern pattern_;
  Prepend prepend_;
  bool split_;
};

StatusOr<std::shared_ptr<const PreTokenizer::Step>> ReadMetaspace(const JsonField& field) {
  CHOIR_ASSIGN_OR_RETURN(const char32_t replacement, field["replacement"].Character());
  CHOIR_ASSIGN_OR_RETURN(const bool split, field["split"].Bool(true));
  CHOIR_ASSIGN_OR_RETURN(const bool old_prefix, field["add_prefix_space"].Bool(true));
  std::string scheme = old_prefix ? "always" : "never";
  if (field["prepend_scheme"].present()) {
    CHOIR_ASSIGN_OR_RETURN(scheme, field["prepend_scheme"].String());
  }
  Prepend prepend = Prepend::kAlways;
  if (scheme == "first") {
    prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Prepend::kNever;
  } else if (scheme != "always") {
    return field["prepend_scheme"].Error("must be always, first or never");
  }
  if (!old_prefix && scheme != "never") {
    return field["add_prefix_space"].Error("contradicts prepend_scheme '" + scheme + "'");
  }
  std::string text;
  unicode::Append(replacement, &text);
  return std::make_shared<const MetaspaceStep>(text, prepend, split);
}

}  // namespace

StatusOr<PreTokenizer> PreTokenizer::Read(const JsonField& field) {
  PreTokenizer pre;
  if (field.present()) CHOIR_RETURN_IF_ERROR(pre.ReadInto(field, 0));
  return pre;
}

Status PreTokenizer::ReadInto(const JsonField& field, int depth) {
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  if (depth > kDepthMax) return field.Error("nested too deeply");
  CHOIR_ASSIGN_OR_RETURN(const std::string type, field["type"].String());
  if (steps_.size() >= kStepsMax) return field.Error("more than 64 pre-tokenizers");
  if (type != "Sequence") return ReadOne(field, type);
  const JsonField parts = field["pretokenizers"];
  CHOIR_RETURN_IF_ERROR(parts.RequireArray());
  for (size_t i = 0; i < parts.size(); ++i) CHOIR_RETURN_IF_ERROR(ReadInto(parts.At(i), depth + 1));
  return {};
}

Status PreTokenizer::ReadByteLevel(const JsonField& field) {
  CHOIR_ASSIGN_OR_RETURN(const bool prefix, field["add_prefix_space"].Bool({}));
  CHOIR_ASSIGN_OR_RETURN(const bool regex, field["use_regex"].Bool(true));
  if (prefix) steps_.push_back(std::make_shared<PrefixSpaceStep>());
  if (regex) {
    CHOIR_ASSIGN_OR_RETURN(Pattern gpt2, Pattern::FromRegex(kGpt2));
    steps_.push_back(std::make_shared<SplitStep>(std::move(gpt2), Behavior::kIsolated, false));
  }
  steps_.push_back(std::make_shared<ByteCharsStep>());
  ends_with_byte_level_ = true;
  return {};
}

Status PreTokenizer::ReadOne(const JsonField& field, const std::string& type) {
  const auto split = [&](Pattern pattern, Behavior behavior, bool invert = false) {
    steps_.push_back(std::make_shared<SplitStep>(std::move(pattern), behavior, invert));
  };
  ends_with_byte_level_ = false;
  if (type == "ByteLevel") return ReadByteLevel(field);
  if (type == "Split") {
    CHOIR_ASSIGN_OR_RETURN(Pattern pattern, ReadPattern(field["pattern"]));
    CHOIR_ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(field["behavior"], {}));
    CHOIR_ASSIGN_OR_RETURN(const bool invert, field["invert"].Bool({}));
    split(std::move(pattern), behavior, invert);
  } else if (type == "Digits") {
    CHOIR_ASSIGN_OR_RETURN(const bool individual, field["individual_digits"].Bool({}));
    split(Pattern::FromClass(unicode::IsNumeric),
          individual ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Metaspace") {
    CHOIR_ASSIGN_OR_RETURN(std::shared_ptr<const Step> step, ReadMetaspace(field));
    steps_.push_back(std::move(step));
  } else if (type == "Whitespace") {
    CHOIR_ASSIGN_OR_RETURN(Pattern words,
                           Pattern::FromRegex(R"([\w\u200C\u200D]+|[^\w\u200C\u200D\s]+)"));
    split(std::move(words), Behavior::kRemoved, true);
  } else if (type == "WhitespaceSplit") {
    split(Pattern::FromClass(unicode::IsWhitespace), Behavior::kRemoved);
  } else if (type == "Punctuation") {
    CHOIR_ASSIGN_OR_RETURN(const Behavior behavior,
                           ReadBehavior(field["behavior"], Behavior::kIsolated));
    split(Pattern::FromClass(unicode::IsPunctuation), behavior);
  } else {
    return field["type"].Error(
        "this pre-tokenizer is not supported (Sequence, Split, Digits, ByteLevel, Metaspace, "
        "Whitespace, WhitespaceSplit and Punctuation are)");
  }
  return {};
}

void PreTokenizer::LeaveBytesToModel() {
  if (ends_with_byte_level_) steps_.pop_back();
  ends_with_byte_level_ = false;
}

// What comes behind one step: the next step, or the words.
class PreTokenizer::Frame : public Sink {
 public:
  Frame(const PreTokenizer& pre, size_t step, PreTokenizerScratch* scratch, Sink* words)
      : pre_(pre), step_(step), scratch_(scratch), words_(words) {}

  bool Take(const Piece& piece) override {
    if (step_ == pre_.steps_.size()) return words_->Take(piece);
    Frame next(pre_, step_ + 1, scratch_, words_);
    return pre_.steps_[step_]->Run(piece, &scratch_->regex, &scratch_->buffers[step_], &next);
  }

 private:
  const PreTokenizer& pre_;
  size_t step_;
  PreTokenizerScratch* scratch_;
  Sink* words_;
};

bool PreTokenizer::Run(const Piece& piece, PreTokenizerScratch* scratch, Sink* words) const {
  if (scratch->buffers.size() < steps_.size()) scratch->buffers.resize(steps_.size());
  return Frame(*this, 0, scratch, words).Take(piece);
}

}  // namespace choir::text
