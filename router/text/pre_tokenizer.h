// Pre-tokenizers of tokenizer.json: cut a piece of text into words for the model. Immutable, any
// thread; what one run needs is in a PreTokenizerScratch, one for each thread. Supported: Sequence,
// Split, Digits, ByteLevel, Metaspace, Whitespace, WhitespaceSplit, Punctuation.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "router/text/json_fields.h"
#include "router/text/regex.h"

namespace choir::text {

struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<std::string> buffers;  // one for each step that rewrites text
};

class PreTokenizer {
 public:
  struct Piece {
    std::string_view text;
    bool at_start = false;  // begins where the whole text begins
  };
  // Takes the pieces in order; false: stop, the run has failed.
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual bool Take(const Piece& piece) = 0;
  };

  // One step of the sequence.
  class Step {
   public:
    virtual ~Step() = default;
    // Hands the pieces of `piece` to `next`, none of them empty. `buffer` is this step's own.
    virtual bool Run(const Piece& piece, RegexScratch* regex, std::string* buffer,
                     Sink* next) const = 0;
  };

  // An absent or null field: the text is one word.
  static StatusOr<PreTokenizer> Read(const JsonField& field);

  // The last step is ByteLevel and its mapping to visible characters may be left to the model,
  // which then gets raw bytes. Before the first Run.
  bool ends_with_byte_level() const { return ends_with_byte_level_; }
  void LeaveBytesToModel();

  // Words in order. REQUIRES: well-formed, non-empty text. False: `words` returned false, or a
  // regular expression has spent its budget.
  bool Run(const Piece& piece, PreTokenizerScratch* scratch, Sink* words) const;

 private:
  class Frame;

  Status ReadInto(const JsonField& field, int depth);
  Status ReadOne(const JsonField& field, const std::string& type);
  Status ReadByteLevel(const JsonField& field);

  std::vector<std::shared_ptr<const Step>> steps_;
  bool ends_with_byte_level_ = false;
};

}  // namespace choir::text
