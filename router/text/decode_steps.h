// The steps of a DecodeStream, one for each kind of decoder. Implementation of decoder.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/text/decoder.h"
#include "router/text/normalizer.h"
#include "router/text/partial_match.h"
#include "router/text/unicode.h"

namespace choir::text {

using DecodeTexts = std::vector<std::string>;

// The byte of "<0x41>".
std::optional<uint8_t> FallbackByte(std::string_view token);
// The bytes of a byte-level token; a token with other characters stands for itself.
std::string ByteLevelBytes(std::string_view token);

inline constexpr char kReplacementUtf8[] = "\xEF\xBF\xBD";

// Joins tokens to bytes and gives whole characters.
class ByteLevelStep : public DecodeStep {
 public:
  void Push(std::string_view text, DecodeTexts* out) override {
    held_ += ByteLevelBytes(text);
    const size_t tail = unicode::IncompleteTail(held_);
    out->push_back(unicode::Sanitize(std::string_view(held_).substr(0, held_.size() - tail)));
    held_.erase(0, held_.size() - tail);
  }
  void Finish(DecodeTexts* out) override { out->push_back(unicode::Sanitize(held_)); }

 private:
  std::string held_;
};

// Runs of <0xNN> tokens: text when they are well-formed as a whole, else a U+FFFD for each. So a
// run is certain only at its end.
class ByteFallbackStep : public DecodeStep {
 public:
  void Push(std::string_view text, DecodeTexts* out) override {
    if (const auto byte = FallbackByte(text)) {
      run_.push_back(static_cast<char>(*byte));
      return;
    }
    Finish(out);
    out->emplace_back(text);
  }
  void Finish(DecodeTexts* out) override {
    if (run_.empty()) return;
    if (unicode::IsValid(run_)) {
      out->push_back(run_);
    } else {
      out->insert(out->end(), run_.size(), kReplacementUtf8);
    }
    run_.clear();
  }

 private:
  std::string run_;
};

// The same behind a join: only a whole text "<0x41>" counts.
class ByteFallbackJoinedStep : public DecodeStep {
 public:
  void Push(std::string_view text, DecodeTexts* out) override {
    held_ += text;
    if (!passed_ && held_.size() <= 6) return;
    passed_ = true;
    out->push_back(std::exchange(held_, ""));
  }
  void Finish(DecodeTexts* out) override {
    ByteFallbackStep step;
    step.Push(held_, out);
    step.Finish(out);
  }

 private:
  std::string held_;
  bool passed_ = false;
};

class ReplaceStep : public DecodeStep {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {
    if (!pattern_.is_literal()) scratch_ = std::make_unique<RegexScratch>();
  }

  void Push(std::string_view text, DecodeTexts* out) override {
    if (scratch_ != nullptr) scratch_->StartText(text.size());
    std::string token(text);
    ReplaceAll(pattern_, content_, &token, scratch_.get());
    out->push_back(std::move(token));
  }
  void Finish(DecodeTexts*) override {}

 private:
  Pattern pattern_;
  std::string content_;
  std::unique_ptr<RegexScratch> scratch_;
};

// A literal, in chunks of one long token.
class ReplaceJoinedStep : public DecodeStep {
 public:
  ReplaceJoinedStep(std::string wanted, std::string content)
      : wanted_(std::move(wanted)), content_(std::move(content)) {}

  void Push(std::string_view text, DecodeTexts* out) override {
    held_ += text;
    std::string done;
    size_t from = 0;
    for (size_t at; (at = held_.find(wanted_, from)) != std::string::npos;) {
      done.append(held_, from, at - from);
      done += content_;
      from = at + wanted_.size();
    }
    const size_t sure = held_.size() - PartialMatch(std::string_view(held_).substr(from), wanted_);
    done.append(held_, from, sure - from);
    held_.erase(0, sure);
    out->push_back(std::move(done));
  }
  void Finish(DecodeTexts* out) override { out->push_back(std::exchange(held_, "")); }

 private:
  std::string wanted_;
  std::string content_;
  std::string held_;
};

class FuseStep : public DecodeStep {
 public:
  void Push(std::string_view text, DecodeTexts* out) override { out->emplace_back(text); }
  void Finish(DecodeTexts*) override {}
};

// Up to `start` of a character off the front of a text, up to `stop` off its end.
class StripStep : public DecodeStep {
 public:
  StripStep(std::string content, size_t start, size_t stop, bool joined)
      : content_(std::move(content)), start_(start), stop_(stop), joined_(joined) {}

  void Push(std::string_view text, DecodeTexts* out) override {
    if (!joined_) front_ = 0;
    held_ += text;
    while (front_ < start_ && held_.starts_with(content_)) {
      held_.erase(0, content_.size());
      ++front_;
    }
    if (!held_.empty()) front_ = start_;  // something else came
    std::string_view sure = held_;
    size_t back = 0;
    while (back < stop_ && sure.ends_with(content_)) {
      sure.remove_suffix(content_.size());
      ++back;
    }
    out->emplace_back(sure);
    held_.erase(0, joined_ ? sure.size() : held_.size());
  }
  void Finish(DecodeTexts*) override {}

 private:
  std::string content_;
  size_t start_;
  size_t stop_;
  bool joined_;
  size_t front_ = 0;
  std::string held_;
};

class MetaspaceStep : public DecodeStep {
 public:
  MetaspaceStep(std::string replacement, bool drops_first, bool joined)
      : replacement_(std::move(replacement)), first_(drops_first), joined_(joined) {}

  void Push(std::string_view text, DecodeTexts* out) override {
    std::string done;
    for (size_t from = 0; from < text.size();) {
      const size_t at = std::min(text.find(replacement_, from), text.size());
      done += text.substr(from, at - from);
      if (at < text.size() && !first_) done += ' ';
      from = at + replacement_.size();
    }
    if (!joined_) first_ = false;
    out->push_back(std::move(done));
  }
  void Finish(DecodeTexts*) override {}

 private:
  std::string replacement_;
  bool first_;  // in the first token it is dropped
  bool joined_;
};

// A suffix becomes a space, but in the last token nothing. (Joined, all is one last token: that is
// ReplaceJoinedStep.) With an empty suffix nothing is replaced.
class BpeSuffixStep : public DecodeStep {
 public:
  explicit BpeSuffixStep(std::string suffix) : suffix_(std::move(suffix)) {}

  void Push(std::string_view text, DecodeTexts* out) override {
    Release(" ", out);
    held_ = std::string(text);
  }
  void Finish(DecodeTexts* out) override { Release("", out); }

 private:
  void Release(const char* content, DecodeTexts* out) {
    if (!held_) return;
    ReplaceAll(Pattern::FromLiteral(suffix_), content, &*held_, nullptr);
    out->push_back(std::move(*held_));
    held_.reset();
  }

  std::string suffix_;
  std::optional<std::string> held_;
};

class SpaceJoinStep : public DecodeStep {
 public:
  void Push(std::string_view text, DecodeTexts* out) override {
    out->push_back((first_ ? "" : " ") + std::string(text));
    first_ = false;
  }
  void Finish(DecodeTexts*) override {}

 private:
  bool first_ = true;
};

}  // namespace choir::text
