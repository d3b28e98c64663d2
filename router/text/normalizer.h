// Normalizers of tokenizer.json: what is done to a piece of text before it is cut. Immutable, any
// thread. Supported: Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip,
// StripAccents, ByteLevel.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "router/text/json_fields.h"
#include "router/text/regex.h"

namespace choir::text {

// pattern of a Replace or Split: {"String": "..."} or {"Regex": "..."}.
StatusOr<Pattern> ReadPattern(const JsonField& field);

class Normalizer {
 public:
  // An absent or null field: nothing is done.
  static StatusOr<Normalizer> Read(const JsonField& field);

  bool empty() const { return steps_.empty(); }
  // False: a regular expression has spent its budget. *dropped_front: the text's beginning was cut
  // off.
  bool Apply(std::string* text, bool* dropped_front, RegexScratch* scratch) const;

 private:
  struct Call {
    std::string* text;
    bool* dropped_front;
    RegexScratch* scratch;
  };
  using Step = std::function<bool(const Call&)>;

  Status ReadInto(const JsonField& field, int depth);
  Status ReadOne(const JsonField& field, const std::string& type);

  std::vector<Step> steps_;
};

// Every match in `text` replaced by `content`; false: budget spent. A literal needs no scratch.
bool ReplaceAll(const Pattern& pattern, const std::string& content, std::string* text,
                RegexScratch* scratch);

}  // namespace choir::text
